"""Samples as Qwen's own finetuning code reads them: `image` and `conversations`.

The shape is that of qwen-vl-finetune/README.md: placeholders stand in human turns only, and paths are relative to the
`data_path` of the data set's entry in `qwenvl/data/__init__.py`, which the README beside the samples spells out.
"""

from collections.abc import Mapping

import orjson

from vlyard.formats.options import Options
from vlyard.formats.record import Question
from vlyard.formats.writers.samples import LIST, Form
from vlyard.formats.writers.sharegpt import conversation
from vlyard.formats.writing import Made

_README = """# For Qwen's finetuning code

Add this to `qwenvl/data/__init__.py`, with the path of this folder instead of `/path/to`:

```python
{entries}
```

Then train with `--dataset_use {main}`.
"""
_ENTRY = 'data_dict["{name}"] = {{"annotation_path": "/path/to/{name}.json", "data_path": "/path/to"}}'


def _sample(picture: str, question: Question, _: Options) -> bytes:
    turns = conversation(question.prompt, question.answer)
    return orjson.dumps({"image": picture, "conversations": turns})


def _describe(made: Made, names: Mapping[str, str]) -> None:
    entries = "\n".join(_ENTRY.format(name=name) for name in names.values())
    text = _README.format(entries=entries, main=next(iter(names.values())))
    (made.folder / "README.md").write_text(text, "utf-8")


QWEN = Form(".json", LIST, _sample, _describe)
