"""What LLaMA-Factory's loader would stumble over, by its data/README.md, parser and converter: for sharegpt sets."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

_PLACEHOLDERS = {"<image>": "images", "<video>": "videos", "<audio>": "audios"}
_COLUMNS = {"messages": "conversations", "images": None, "videos": None, "audios": None, "system": None, "tools": None}
_TAGS = {  # what it takes where `tags` is not given
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_KNOWN = {"file_name", "formatting", "columns", "tags"}


def problems(folder: Path) -> list[str]:
    """Every reason for which it would skip a sample, raise, or warn; none where all is well."""
    info = orjson.loads((folder / "dataset_info.json").read_bytes())
    return [f"{name}: {problem}" for name, entry in info.items() for problem in _of_data_set(folder, entry)]


def _of_data_set(folder: Path, entry: Mapping[str, Any]) -> Iterator[str]:
    if entry.get("formatting") != "sharegpt":
        yield f"formatting is {entry.get('formatting')}"
        return
    given, tags = entry.get("columns", {}), entry.get("tags", {})
    yield from (f"{key} is not known" for key in {*entry} - _KNOWN | {*given} - {*_COLUMNS} | {*tags} - {*_TAGS})
    # A tag that `tags` leaves out is none at all, and so is a column that `columns` leaves out.
    columns = {key: given.get(key) for key in _COLUMNS} if given else _COLUMNS
    tags = {key: tags.get(key) for key in _TAGS} if tags else _TAGS
    samples = orjson.loads((folder / entry["file_name"]).read_bytes())
    if not isinstance(samples, list) or not samples:
        yield "it is no list of samples"
        return
    for number, sample in enumerate(samples):
        yield from (f"sample {number}: {problem}" for problem in _of_sample(folder, sample, columns, tags))


def _of_sample(
    folder: Path, sample: Mapping[str, Any], columns: Mapping[str, str | None], tags: Mapping[str, str | None]
) -> Iterator[str]:
    turns = sample.get(str(columns["messages"]))
    if not turns or len(turns) % 2:
        yield f"it has {turns and len(turns)} turns"
        return
    allowed = ({tags["user_tag"], tags["observation_tag"]}, {tags["assistant_tag"], tags["function_tag"]})
    for place, turn in enumerate(turns):
        if turn.get(str(tags["role_tag"])) not in allowed[place % 2] - {None}:
            yield f"turn {place} is by {turn.get(str(tags['role_tag']))}"
        if not isinstance(turn.get(str(tags["content_tag"])), str):
            yield f"turn {place} says nothing"
    text = "".join(str(turn.get(str(tags["content_tag"]))) for turn in turns)
    for placeholder, column in _PLACEHOLDERS.items():
        files = sample.get(str(columns[column]), [])
        if text.count(placeholder) != len(files):
            yield f"it has {len(files)} {column} and {text.count(placeholder)} times {placeholder}"
        yield from (f"{file} is not there" for file in files if not (folder / file).is_file())
