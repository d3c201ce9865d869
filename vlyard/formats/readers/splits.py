"""Which split a file belongs to, as its name and its folders say. It knows no format."""

import re
from pathlib import PurePosixPath

ORDER = ("train", "val", "test")
_SPLITS = {
    "train": "train", "training": "train", "trainval": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# Words that a split's folder may have in its name besides.
_BESIDE = frozenset(
    {
        "images", "image", "imgs", "img", "pictures", "photos", "jpegimages", "annotations", "annotation", "labels",
        "label", "xml", "xmls", "json", "jsons", "coco", "voc", "labelme", "instances", "data", "set", "dataset",
    }
)  # fmt: skip
_WORD = re.compile(r"[A-Za-z]+")


def split_of_file(name: str) -> str:
    """The split that a path from the set's root names: `instances_val2017.json`, `valid/_annotations.coco.json`.

    Empty where it names none.
    """
    path = PurePosixPath(name)
    named = [_SPLITS[word] for word in _words(path.stem) if word in _SPLITS]
    if named:
        return "train" if "train" in named else named[-1]
    return split_of_folder(str(path.parent))


def split_of_folder(name: str) -> str:
    """The split that the innermost folder of a path which names one names: `images/train2017`, `test`. Else empty."""
    for part in reversed(PurePosixPath(name).parts):
        words = _words(part)
        named = [_SPLITS[word] for word in words if word in _SPLITS]
        if named and all(word in _SPLITS or word in _BESIDE for word in words):
            return "train" if "train" in named else named[-1]
    return ""


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]
