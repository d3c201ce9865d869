"""Samples as LLaMA-Factory reads them: sharegpt files and `dataset_info.json`.

The shape is that of LLaMA-Factory's data/README.md: the key is `formatting`, turns alternate and are even in number,
and each `<image>` in the turns stands for one entry of `images`, a path relative to the data set's folder. Without
`tags`, the turns are from/value ones of human and gpt.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from vlyard.formats.options import Options
from vlyard.formats.record import Question
from vlyard.formats.writers.samples import LIST, Form
from vlyard.formats.writing import Made

DATASET_INFO = "dataset_info.json"
_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


def asked(prompt: str) -> str:
    """The user turn's text: the picture comes first."""
    return f"<image>\n{prompt}"


def _by_role(picture: str, question: Question, _: Options) -> bytes:
    messages = [
        {"role": "user", "content": asked(question.prompt)},
        {"role": "assistant", "content": question.answer},
    ]
    return orjson.dumps({"messages": messages, "images": [picture]})


def conversation(prompt: str, answer: str) -> list[dict[str, str]]:
    """The turns of human and gpt."""
    return [{"from": "human", "value": asked(prompt)}, {"from": "gpt", "value": answer}]


def _by_from(picture: str, question: Question, _: Options) -> bytes:
    turns = conversation(question.prompt, question.answer)
    return orjson.dumps({"conversations": turns, "images": [picture]})


def _entry(name: str, messages: str) -> dict[str, Any]:
    columns = {"messages": messages, "images": "images"}
    return {"file_name": f"{name}.json", "formatting": "sharegpt", "columns": columns}


def _write(made: Made, info: Mapping[str, Mapping[str, Any]]) -> None:
    content = orjson.dumps(info, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    (made.folder / DATASET_INFO).write_bytes(content)


def _describe_by_role(made: Made, names: Mapping[str, str]) -> None:
    _write(made, {name: {**_entry(name, "messages"), "tags": _TAGS} for name in names.values()})


def describe_by_from(made: Made, names: Mapping[str, str]) -> None:
    """Write the `dataset_info.json` of from/value turns, which are what LLaMA-Factory takes without tags."""
    _write(made, {name: _entry(name, "conversations") for name in names.values()})


BY_ROLE = Form(".json", LIST, _by_role, _describe_by_role)
BY_FROM = Form(".json", LIST, _by_from, describe_by_from)
