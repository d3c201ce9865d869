"""Samples as TRL's SFTTrainer takes them: JSONL of messages in parts, and images.

The shape is that of TRL's "dataset formats": a part of the type `image` stands for one entry of `images`. TRL wants
pictures in that column, which `datasets` makes of paths, as the README beside the samples shows.
"""

from collections.abc import Mapping

import orjson

from vlyard.formats.options import Options
from vlyard.formats.record import Question
from vlyard.formats.writers.samples import LINES, Form
from vlyard.formats.writing import Made

_README = """# For TRL

Paths of pictures are relative to this folder; run this in it:

```python
from datasets import Image, List, load_dataset

data = load_dataset("json", data_files={files})
data = data.cast_column("images", List(Image()))
```

Then give `data[{main!r}]` to `SFTTrainer`, with `SFTConfig(max_length=None)`, so that no answer is cut.
"""


def _sample(picture: str, question: Question, _: Options) -> bytes:
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.prompt}]},
        {"role": "assistant", "content": [{"type": "text", "text": question.answer}]},
    ]
    return orjson.dumps({"messages": messages, "images": [picture]})


def _describe(made: Made, names: Mapping[str, str]) -> None:
    files = {split: f"{name}.jsonl" for split, name in names.items()}
    text = _README.format(files=files, main=next(iter(names)))
    (made.folder / "README.md").write_text(text, "utf-8")


TRL = Form(".jsonl", LINES, _sample, _describe)
