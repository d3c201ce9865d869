"""Writing a grounding data set as LLaMA-Factory reads it: sharegpt files and `dataset_info.json`.

The shape is that of LLaMA-Factory's data/README.md: the key is `formatting`, turns alternate and are even in number,
and each `<image>` in the turns stands for one entry of `images`, a path relative to the data set's folder.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import orjson

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.answer import write_answer
from vlyard.formats.yolo import Found

IMAGE = "<image>"
_PLACEHOLDERS = (IMAGE, "<video>", "<audio>")  # LLaMA-Factory counts these in every turn
_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


def _answer(objects: Sequence[Found]) -> str:
    answer = write_answer((found.label, found.box) for found in objects)
    for placeholder in _PLACEHOLDERS:  # a class of that name: the same JSON, spelled so that nobody counts it
        answer = answer.replace(placeholder, "\\u003c" + placeholder[1:])
    return answer


def check_prompt(prompt: str) -> None:
    """Raises `InvalidInput` where the prompt holds a placeholder: the picture's own is put before it."""
    for placeholder in _PLACEHOLDERS:
        if placeholder in prompt:
            complaint = Complaint("prompt", f"it contains {placeholder}", "leave it out: the picture comes first")
            raise InvalidInput("The prompt cannot be used", [complaint])


class SharegptWriter:
    """Writes samples one at a time, a file for each split; nothing is held in memory.

    The file of `main_split` is `<name>.json`, and those of the others are `<name>_<split>.json`, so that a trainer
    that is given the name never sees what is kept for testing.
    """

    def __init__(self, folder: Path, name: str, prompt: str, main_split: str) -> None:
        self.folder, self.name, self.main_split = folder, name, main_split
        self.question = f"{IMAGE}\n{prompt}"
        self._open: dict[str, BinaryIO] = {}
        self.names: dict[str, str] = {}  # split -> the data set's name in dataset_info.json

    def add(self, picture: str, objects: Sequence[Found], split: str) -> None:
        """Write one sample; `picture` is relative to the folder."""
        messages = [
            {"role": "user", "content": self.question},
            {"role": "assistant", "content": _answer(objects)},
        ]
        first = split not in self._open
        file = self._file(split)
        file.write(b"" if first else b",\n")
        file.write(orjson.dumps({"messages": messages, "images": [picture]}))

    def _file(self, split: str) -> BinaryIO:
        if split not in self._open:
            self.names[split] = self.name if split == self.main_split else f"{self.name}_{split}"
            self._open[split] = (self.folder / f"{self.names[split]}.json").open("wb")
            self._open[split].write(b"[\n")
        return self._open[split]

    def __enter__(self) -> "SharegptWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open.values():
            if error is None:
                file.write(b"\n]\n")
            file.close()
        if error is None:
            self._write_info()

    def _write_info(self) -> None:
        info = {
            name: {
                "file_name": f"{name}.json",
                "formatting": "sharegpt",
                "columns": {"messages": "messages", "images": "images"},
                "tags": _TAGS,
            }
            for name in self.names.values()
        }
        content = orjson.dumps(info, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        (self.folder / "dataset_info.json").write_bytes(content)
