"""Which label format a folder is in: the table of readers, tried from its top.

A file that describes the whole set decides before formats that are known by each label alone.
"""

from collections.abc import Callable, Mapping

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.readers import answers, coco, labelme, voc, yolo
from vlyard.formats.reading import Reader, Wanted
from vlyard.formats.tree import Tree

Recognise = Callable[[Tree, Wanted], Reader | None]

READERS: tuple[tuple[str, Recognise], ...] = (
    ("yolo", yolo.described),
    ("coco", coco.recognise),
    ("answers", answers.recognise),
    ("voc", voc.recognise),
    ("labelme", labelme.recognise),
    ("yolo", yolo.undescribed),  # any folder at all
)
_SIGNS: Mapping[str, str] = {
    "coco": "JSON file with images, annotations and categories",
    "answers": "JSON or JSONL file of samples with pictures and answers",
    "voc": "XML files with an <annotation> each",
    "labelme": "JSON files with shapes and an imagePath",
}


def recognise(tree: Tree, wanted: Wanted) -> Reader:
    """The reader for what is in the folder.

    Raises `InvalidInput` where the format that is asked for is not there, or where what describes the set is broken.
    """
    for name, known in READERS:
        if wanted.format in {"auto", name} and (reader := known(tree, wanted)) is not None:
            return reader
    complaint = Complaint(
        "source_format", f"the source holds no {_SIGNS[wanted.format]}", "choose auto, or another format"
    )
    raise InvalidInput(f"The source is not in the format {wanted.format}", [complaint])
