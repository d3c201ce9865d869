"""Samples as ms-swift reads them: JSONL of messages, images and `objects`.

ms-swift puts its `objects` where `<bbox>` and `<ref-object>` stand in an answer. Here the boxes are written as
thousandths over 1000 and of the type `norm1`, which needs no size of the picture: times 1000 and rounded, they are
exactly the integers of the native answer. With `QWENVL_BBOX_FORMAT=new` (ms-swift from 3.9.1) a box becomes
`[x1, y1, x2, y2]` and a name stays as it is, so that the whole is the native answer, character for character; the
default, `legacy`, would put special tokens into the JSON. Source: ms-swift, docs/source_en/Customization/
Custom-dataset.md, "Grounding", and swift/template/base.py, `normalize_bbox`.
"""

from collections.abc import Mapping

import orjson

from vlyard.formats.answering import entry_text, mentions, quoted, wrapped
from vlyard.formats.options import Options
from vlyard.formats.record import Question
from vlyard.formats.writers.samples import LINES, Form
from vlyard.formats.writers.sharegpt import asked
from vlyard.formats.writing import Made

_README = """# For ms-swift

```sh
export QWENVL_BBOX_FORMAT=new ROOT_IMAGE_DIR=/path/to
swift sft --model Qwen/Qwen3-VL-4B-Instruct --dataset /path/to/{main}.jsonl
```

`/path/to` is this folder. `QWENVL_BBOX_FORMAT=new` is needed: without it, ms-swift writes boxes in the way of older
models, with special tokens. Data sets: {names}.
"""


def _sample(picture: str, question: Question, options: Options) -> bytes:
    listed = list(mentions(question.targets, options))
    answer = wrapped((entry_text(each, "<bbox>", '"<ref-object>"', options) for each in listed), options)
    objects = {
        "ref": [quoted(each.target.label)[1:-1] for each in listed],  # as it is spelled between quotation marks
        "bbox": [[value / 1000 for value in each.thousandths] for each in listed],
        "bbox_type": "norm1",
    }
    messages = [{"role": "user", "content": asked(question.prompt)}, {"role": "assistant", "content": answer}]
    return orjson.dumps({"messages": messages, "images": [picture], "objects": objects})


def _describe(made: Made, names: Mapping[str, str]) -> None:
    files = [f"{name}.jsonl" for name in names.values()]
    text = _README.format(main=next(iter(names.values())), names=", ".join(f"`{file}`" for file in files))
    (made.folder / "README.md").write_text(text, "utf-8")


SWIFT = Form(".jsonl", LINES, _sample, _describe)
