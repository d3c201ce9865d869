"""Which files of a dataset's folder are learned and which are held out, and their rows one by one.

It knows three ways to lay a dataset out: what a conversion made, LLaMA-Factory's `dataset_info.json`, and bare files
of JSON or JSONL. It knows no model and no picture. A dataset comes from somebody else: nothing outside of its folder
is read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.converted import REPORT, open_converted
from vlyard.formats.readers.json_kinds import SUFFIXES, BrokenJson, Kind, entries, kind_of, opened
from vlyard.formats.readers.splits import ORDER, split_of_file
from vlyard.formats.tree import Tree, storable
from vlyard.formats.writers.sharegpt import DATASET_INFO
from vlyard.jobs.learning import LearningSpec
from workers.qwen.training.turns import USUAL, Columns, Role

_FORMS = (".json", ".jsonl")
_SHAREGPT = frozenset({"sharegpt", "openai"})
_ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")


@dataclass(frozen=True)
class DataSet:
    """A file of samples."""

    file: Path
    name: str  # from the dataset's root
    split: str  # empty where nothing says
    columns: Columns = USUAL


@dataclass(frozen=True)
class Data:
    """What of a folder is learned, and what is held out."""

    tree: Tree
    learned: tuple[DataSet, ...]
    held_out: tuple[DataSet, ...]


class Row(NamedTuple):
    """A sample as it is written."""

    number: int  # in its file, from 1
    said: object  # a `ValueError` where it is not JSON


def find_data(spec: LearningSpec, folder: Path) -> Data:
    """The files that the specification asks for. Raises `InvalidInput` where there is none in a known form."""
    tree = Tree(_root(folder.resolve()))
    found = _with_splits(_data_sets(tree))
    if all(not each.split for each in found):
        return Data(tree, tuple(found), ())
    splits = dict.fromkeys(each.split for each in found)
    if unknown := [split for split in spec.splits if split not in splits]:
        what = f"the dataset has no split {unknown[0]!r}"
        fix = f"it has {', '.join(splits)}"
        raise InvalidInput("There is no such split", [Complaint("/spec/splits", what, fix)])
    learned = tuple(each for each in found if not spec.splits or (each.split in spec.splits))
    held_out = tuple(each for each in found if each.split == spec.held_out)
    return Data(tree, tuple(each for each in learned if each not in held_out), held_out)


def rows(data_set: DataSet) -> Iterator[Row]:
    """Every sample of a file, streamed. Raises `InvalidInput` where it is no JSON."""
    try:
        with opened(data_set.file) as file:
            is_list = file.read(4096).lstrip()[:1] == b"["
        if is_list:
            for number, said in enumerate(entries(data_set.file, "item"), 1):
                yield Row(number, said)
            return
        with opened(data_set.file) as file:
            for number, line in enumerate((line for line in file if line.strip()), 1):
                yield Row(number, _read(line))
    except BrokenJson as error:
        what = f"this is not JSON: {error}"
        raise _no_data(data_set.name, what, "correct the file") from None


def _read(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except ValueError as error:
        return error


# --- where the data is ----------------------------------------------------------------------------------------


def _root(folder: Path) -> Path:
    """Where the dataset is: people pack a folder as often as what is in it."""
    inside = [path for path in folder.iterdir() if not path.name.startswith((".", "__"))]
    alone = inside[0] if len(inside) == 1 else None
    return _root(alone) if alone is not None and alone.is_dir() and not alone.is_symlink() else folder


def _data_sets(tree: Tree) -> list[DataSet]:
    if (tree.root / REPORT).is_file():
        return _converted(tree)
    info = next((path for path in tree.walk() if path.name == DATASET_INFO), None)
    if info is not None:
        return list(_described(tree, info))
    files = (path for path in tree.walk() if path.suffix.lower() in SUFFIXES and _is_inside(path, tree))
    found = [path for path in files if kind_of(path) is Kind.SAMPLES]
    if not found:
        what = f"it is not what a conversion made, and has no {DATASET_INFO} and no JSON or JSONL of conversations"
        raise _no_data("/spec/dataset", what, "convert it first, or give conversations in a known form")
    return [DataSet(path, storable(tree.name(path)), split_of_file(tree.name(path))) for path in found]


def _is_inside(path: Path, tree: Tree) -> bool:
    """Whether it is in the dataset even once links are followed."""
    return path.resolve().is_relative_to(tree.root)


def _converted(tree: Tree) -> list[DataSet]:
    found, said = [], open_converted(tree.root).head.get("data_sets")
    if not isinstance(said, dict) or not all(isinstance(part, dict) for part in said.values()):
        raise _no_data(REPORT, "it does not name the data sets", "convert the data set again")
    for name, part in said.items():
        file = next((tree.root / f"{name}{form}" for form in _FORMS if (tree.root / f"{name}{form}").is_file()), None)
        if file is not None and file.resolve().parent == tree.root:
            found.append(DataSet(file, storable(file.name), str(part.get("split", ""))))
    if not found:
        what = f"{REPORT} says that labels were written, and there are no questions and answers"
        raise _no_data("/spec/dataset", what, "convert it to another form, such as sharegpt")
    return found


def _with_splits(found: list[DataSet]) -> list[DataSet]:
    """Beside files that are kept for testing, one without a split is what is trained on."""
    if all(not each.split for each in found):
        return found
    return [DataSet(each.file, each.name, each.split or "train", each.columns) for each in found]


# --- LLaMA-Factory's description ------------------------------------------------------------------------------


def _described(tree: Tree, info: Path) -> Iterator[DataSet]:
    """The data sets that a dataset_info.json names. Source: LLaMA-Factory, data/README.md."""
    place = storable(tree.name(info))
    try:
        said = orjson.loads(info.read_bytes())
    except ValueError as error:
        raise _no_data(place, f"this is not JSON: {error}", "correct the file") from None
    if not isinstance(said, dict) or not said:
        raise _no_data(place, "it names no data set", "name the files of samples in it")
    for name, entry in said.items():
        yield _data_set(tree, info, f"{place}: {storable(name)}", name, entry)


def _data_set(tree: Tree, info: Path, where: str, name: str, entry: Any) -> DataSet:
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
        elsewhere = next((key for key in _ELSEWHERE if isinstance(entry, dict) and key in entry), None)
        what = f"it is fetched by {elsewhere}, and nothing is fetched" if elsewhere else "it has no file_name"
        raise _no_data(where, what, "name a file of the dataset by file_name, or remove the entry")
    formatting = entry.get("formatting", "alpaca")
    if formatting not in _SHAREGPT:
        what = f"its formatting is {formatting!r}" + ("" if "formatting" in entry else ", the default")
        raise _no_data(where, what, "give conversations, with `formatting` sharegpt")
    file = tree.find(entry["file_name"], [info.parent])
    if file is None or not file.is_file() or not _is_inside(file, tree):
        raise _no_data(where, f"there is no file {entry['file_name']!r}", "correct file_name, or add the file")
    last = name.rpartition("_")[2]
    split = last if last in ORDER else split_of_file(tree.name(file))
    return DataSet(file, storable(tree.name(file)), split, _columns(where, entry))


def _columns(where: str, entry: Mapping[str, Any]) -> Columns:
    columns, tags = entry.get("columns", {}), entry.get("tags", {})
    if not isinstance(columns, dict) or not isinstance(tags, dict):
        raise _no_data(where, "its columns or tags are no table", "write them as LLaMA-Factory has them")
    roles: dict[str, Role] = {} if tags.keys() & {"user_tag", "assistant_tag"} else dict(USUAL.roles)
    for tag, spoken, role in _TAGGED:
        roles[str(tags.get(tag, spoken))] = role
    return Columns(
        turns=_named(columns, "messages", USUAL.turns),
        images=_named(columns, "images", USUAL.images),
        system=str(columns.get("system", USUAL.system)),
        role=_named(tags, "role_tag", USUAL.role),
        content=_named(tags, "content_tag", USUAL.content),
        roles=roles,
    )


_TAGGED: Sequence[tuple[str, str, Role]] = (
    ("user_tag", "human", "user"),
    ("assistant_tag", "gpt", "assistant"),
    ("system_tag", "system", "system"),
)


def _named(said: Mapping[str, Any], key: str, usual: tuple[str, ...]) -> tuple[str, ...]:
    return (str(said[key]),) if said.get(key) else usual


def _no_data(where: str, what: str, fix: str) -> InvalidInput:
    return InvalidInput("The dataset cannot be learned", [Complaint(where, what, fix)])
