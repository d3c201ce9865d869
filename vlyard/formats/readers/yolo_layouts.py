"""Recognising how a YOLO data set is laid out: what says so, the classes, and where each split's pictures are.

The table `LAYOUTS` is tried from its top; what it does not know is read as `same_folder`. A layout reads the set's own
lists and names; it opens no picture and no label. Paths that lead nowhere are looked for by their last parts, and the
evidence says so.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.classes import Classes
from vlyard.formats.tree import Tree, storable

SAME_FOLDER = "same_folder"
_TEXT_LIMIT = 2**20  # bytes of a file that names classes: nine thousand names take a fifth of that
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_Said = TypeVar("_Said")  # what a description says, as its own format gives it
NAMES_FILES = ("classes.txt", "_darknet.labels", "obj.names", "classes.names")


@dataclass(frozen=True)
class Source:
    """One place that a split takes pictures from: a folder with all below it, or a text file that lists them."""

    written: str  # as the data set says it
    path: Path | None  # what was found; None where nothing was


@dataclass(frozen=True)
class Split:
    name: str  # train, val or test
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Dataset:
    """A data set as it was recognised."""

    tree: Tree
    layout: str  # ultralytics, roboflow, darknet or same_folder
    evidence: tuple[str, ...]  # what was seen, in sentences
    classes: Classes
    splits: tuple[Split, ...]
    bases: tuple[Path, ...]  # the folders from which a list's paths are tried, in this order
    described_by: str  # the file that says all this, or the root
    names_file: Path | None = None  # the text file that names the classes
    labels: Path | None = None  # the folder that whoever converts said holds the labels
    keypoints: tuple[int, int] | None = None  # kpt_shape: how many keypoints a row has, and numbers for each
    keypoint_names: tuple[str, ...] = ()


def described(tree: Tree) -> Dataset | None:
    """The layout that a file in the folder describes. Raises `InvalidInput` where that is broken or ambiguous."""
    return next((dataset for layout in LAYOUTS if (dataset := layout(tree)) is not None), None)


# --- data.yaml: Ultralytics and Roboflow ----------------------------------------------------------------------


def _described_by_yaml(tree: Tree) -> Dataset | None:
    described = _shallowest(tree, dict(_descriptions(tree)))
    if described is None:
        return None
    file, said = described
    base = said.get("path")
    at = tree.find(base, [file.parent, tree.root]) if isinstance(base, str) and base else None
    bases = tuple(dict.fromkeys(path for path in (at, file.parent, tree.root) if path is not None and path.is_dir()))
    evidence = [f"{tree.name(file)} names classes and splits"]
    if base and at is None:
        evidence.append(f"path: {base} is not here; paths are taken from the folder of {tree.name(file)}")
    splits: list[Split] = []
    read: set[Path | None] = set()  # places: who has no pictures for validation writes the same folder twice
    for key, split in _SPLITS.items():
        written = said.get(key)
        if not written:
            continue
        entries = written if isinstance(written, list) else [written]
        sources = [_source(tree, file, key, entry, bases) for entry in entries]
        again = [source for source in sources if source.path in read]
        sources = [source for source in sources if source.path is None or source.path not in read]
        read.update(source.path for source in sources)
        evidence += [_resolved(tree, key, source, bases) for source in sources]
        evidence += [f"{key}: {source.written} was read before, and is read once" for source in again]
        if sources:
            splits.append(Split(split, tuple(sources)))
    classes, remarks = _yaml_classes(tree.name(file), said)
    signs = _roboflow_signs(file, said, splits)
    if signs:
        remarks.append(f"a Roboflow export, by {', '.join(signs)}")
    layout = "roboflow" if signs else "ultralytics"
    shape, names = _keypoints(tree.name(file), said)
    if shape is not None:
        remarks.append(f"kpt_shape: rows have {shape[0]} keypoints of {shape[1]} numbers")
    return Dataset(
        tree, layout, (*evidence, *remarks), classes, tuple(splits), bases, tree.name(file),
        keypoints=shape, keypoint_names=names,
    )  # fmt: skip


def _roboflow_signs(file: Path, said: Mapping[str, object], splits: Sequence[Split]) -> list[str]:
    """How a Roboflow export can be told from another set with a data.yaml."""
    signs = ["its roboflow: block"] if isinstance(said.get("roboflow"), dict) else []
    signs += [name for name in ("README.roboflow.txt", "README.dataset.txt") if (file.parent / name).is_file()]
    for written in (source.written for split in splits for source in split.sources):
        nearer = file.parent / written.removeprefix("../")
        if written.startswith("../") and nearer.is_dir() and not (file.parent / written).is_dir():
            return [*signs, f"{written}, which lies one folder nearer"]
    return signs


def _descriptions(tree: Tree) -> Iterator[tuple[Path, dict[str, object]]]:
    for file in tree.describing():
        if file.suffix.lower() not in {".yaml", ".yml"}:
            continue
        said = _load_yaml(tree, file)
        if ("names" in said or "nc" in said) and any(said.get(key) for key in _SPLITS):
            yield file, said


def _load_yaml(tree: Tree, file: Path) -> dict[str, object]:
    text = _text(tree, file)
    try:
        # Every scalar stays the text that was written: a class may be called `no`, `1.0` or `2024-01-01`.
        said = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506  # builds only text, lists and dicts
    except (yaml.YAMLError, RecursionError) as error:
        if "names" not in text:
            return {}
        mark = getattr(error, "problem_mark", None)
        where = tree.name(file) + (f":{mark.line + 1}" if mark else "")
        problem = getattr(error, "problem", None) or "it is nested too deeply"
        raise _invalid(where, f"this is not YAML: {problem}", "correct the file") from None
    return said if isinstance(said, dict) else {}


def _source(tree: Tree, file: Path, key: str, entry: object, bases: tuple[Path, ...]) -> Source:
    if not isinstance(entry, str):
        raise _invalid(f"{tree.name(file)}: {key}", "this is neither a path nor a list of paths", "write a path")
    return Source(entry, tree.find(entry, bases))


def _resolved(tree: Tree, key: str, source: Source, bases: tuple[Path, ...]) -> str:
    if source.path is None:
        return f"{key}: {source.written} is not here"
    what = "lists pictures" if source.path.is_file() else "is a folder of pictures"
    if any((base / source.written).exists() for base in bases[:1]):
        return f"{key}: {source.written} {what}"
    return f"{key}: {source.written} does not resolve; {tree.name(source.path)} {what}"


def _yaml_classes(where: str, said: Mapping[str, object]) -> tuple[Classes, list[str]]:
    names, count = said.get("names"), said.get("nc")
    if isinstance(names, dict):
        pairs = [(str(key), name) for key, name in names.items()]
    elif isinstance(names, list):
        pairs = [(str(key), name) for key, name in enumerate(names)]
    elif isinstance(count, str) and count.isdecimal() and int(count) <= 100_000:
        return Classes({i: f"class_{i}" for i in range(int(count))}), [f"nc: {count}, and no names"]
    else:
        raise _invalid(
            f"{where}: names", "this is neither a list nor a table of class names", "write names: [cat, dog]"
        )
    for key, name in pairs:
        if not key.isdecimal() or not isinstance(name, str) or not name.strip():
            raise _invalid(
                f"{where}: names", f"entry {key!r} is not an id with a name", "write names: {0: cat, 1: dog}"
            )
    classes = Classes({int(key): _clean(name) for key, name in sorted(pairs, key=lambda pair: int(pair[0]))})
    odd = isinstance(count, str) and count != str(len(pairs))
    return classes, [f"nc is {count}, and there are {len(pairs)} names; the names are taken"] if odd else []


def _keypoints(where: str, said: Mapping[str, object]) -> tuple[tuple[int, int] | None, tuple[str, ...]]:
    """What a pose set says of its rows: `kpt_shape: [17, 3]`, and `kpt_names` where it has them."""
    shape, names = said.get("kpt_shape"), said.get("kpt_names")
    if shape is None:
        return None, ()
    numbers = (
        [int(part) for part in shape if isinstance(part, str) and part.isdecimal()] if isinstance(shape, list) else []
    )
    if len(numbers) != 2 or numbers[1] not in {2, 3} or not 1 <= numbers[0] <= 1_000:
        raise _invalid(f"{where}: kpt_shape", "this is not a count and 2 or 3", "write kpt_shape: [17, 3]")
    if isinstance(names, dict):  # Ultralytics has a list of names for each class; the classes share their points
        names = next(iter(names.values()), None)
    known = tuple(str(name) for name in names) if isinstance(names, list) else ()
    return (numbers[0], numbers[1]), known


# --- obj.data: Darknet ----------------------------------------------------------------------------------------


def _darknet(tree: Tree) -> Dataset | None:
    files = {file: _key_values(tree, file) for file in tree.describing() if file.suffix.lower() == ".data"}
    described = _shallowest(tree, {file: said for file, said in files.items() if said.keys() & _SPLITS.keys()})
    if described is None:
        return None
    file, said = described
    # A Darknet set is trained from the folder above it: that is where its paths begin.
    above = file.parent.parent if file.parent != tree.root else file.parent
    bases = tuple(dict.fromkeys((above, file.parent, tree.root)))
    evidence = [f"{tree.name(file)} is a Darknet description"]
    sources: dict[str, Source] = {}
    for key, split in _SPLITS.items():
        written = said.get(key)
        if not written:
            continue
        source = Source(written, tree.find(written, bases))
        if any(source.path is not None and source.path == other.path for other in sources.values()):
            evidence.append(f"{key}: {written} is the same list again, read once")
            continue
        evidence.append(_resolved(tree, key, source, bases))
        sources[split] = source
    names = tree.find(said["names"], bases) if said.get("names") else None
    names = names or next((path for path in sorted(file.parent.iterdir()) if path.suffix == ".names"), None)
    classes, remark = _named_by(tree, names)
    splits = tuple(Split(split, (source,)) for split, source in sources.items())
    return Dataset(tree, "darknet", (*evidence, remark), classes, splits, bases, tree.name(file), names)


def _key_values(tree: Tree, file: Path) -> dict[str, str]:
    lines = (line.partition("=") for line in _text(tree, file).splitlines() if not line.lstrip().startswith("#"))
    return {key.strip(): value.strip() for key, mark, value in lines if mark}


# --- neither: pictures with their labels beside them ----------------------------------------------------------


def same_folder(tree: Tree) -> Dataset:
    """Every picture, for the want of a description."""
    files = [file for file in tree.describing() if file.name in NAMES_FILES]
    names = min(files, key=lambda file: (len(file.parts), NAMES_FILES.index(file.name)), default=None)
    said = _names_alone(tree) if names is None else None
    sign = "no data.yaml and no obj.data" if said is None else f"{tree.name(said[0])} names classes, and no splits"
    evidence = [f"{sign}: every picture, with the label file beside it or in labels/ for images/"]
    splits = (Split("train", (Source(".", tree.root),)),)
    shape: tuple[int, int] | None = None
    points: tuple[str, ...] = ()
    if said is None:
        classes, remark = _named_by(tree, names)
        evidence.append(remark)
    else:
        classes, remarks = _yaml_classes(tree.name(said[0]), said[1])
        shape, points = _keypoints(tree.name(said[0]), said[1])
        evidence += remarks
    return Dataset(
        tree, SAME_FOLDER, tuple(evidence), classes, splits, (tree.root,), ".", names,
        keypoints=shape, keypoint_names=points,
    )  # fmt: skip


def _names_alone(tree: Tree) -> tuple[Path, Mapping[str, object]] | None:
    """A data.yaml that names classes, and no split."""
    files = [file for file in tree.describing() if file.name in {"data.yaml", "data.yml", "dataset.yaml"}]
    said = {file: content for file in files if "names" in (content := _load_yaml(tree, file))}
    return _shallowest(tree, said)


def _named_by(tree: Tree, file: Path | None) -> tuple[Classes, str]:
    """The classes that a file names line by line; an empty line is an id without a class."""
    if file is None:
        return Classes(None), "no file names the classes, so they are called class_0, class_1 and so on"
    lines = [line.strip() for line in _text(tree, file).splitlines()]
    names = {number: _clean(line) for number, line in enumerate(lines) if line}
    if not names:
        raise _invalid(tree.name(file), "it names no class", "write one class name in each line")
    return Classes(names), f"{tree.name(file)} names {len(names)} classes"


LAYOUTS: tuple[Callable[[Tree], Dataset | None], ...] = (_described_by_yaml, _darknet)  # tried from the top


def _shallowest(tree: Tree, described: Mapping[Path, _Said]) -> tuple[Path, _Said] | None:
    """The description nearest to the root. `data.yaml` and `obj.data` are what the field calls it, and go first."""
    if not described:
        return None
    ranks = {file: (len(file.parts), file.name not in {"data.yaml", "obj.data"}) for file in described}
    best = min(ranks.values())
    files = [file for file, rank in ranks.items() if rank == best]
    if len(files) > 1:
        listed = ", ".join(tree.name(file) for file in files[:5])
        raise _invalid(listed, "each of these describes a data set", "convert one data set at a time")
    return files[0], described[files[0]]


def _text(tree: Tree, file: Path) -> str:
    if file.stat().st_size > _TEXT_LIMIT:
        raise _invalid(tree.name(file), f"it has more than {_TEXT_LIMIT} bytes", "is this the right file?")
    return file.read_text(encoding="utf-8-sig", errors="replace")


def _clean(name: str) -> str:
    return storable(name.strip())


def _invalid(where: str, what: str, fix: str) -> InvalidInput:
    return InvalidInput("The data set cannot be read", [Complaint(storable(where), storable(what), fix)])
