"""Sets of questions and answers: every object that an answer names becomes a target, or stands in the account."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.language.made_records import SIZE, record, target, written
from tests.language.read_sets import Result, put, read, recognised
from vlyard.errors import InvalidInput
from vlyard.formats.classes import Classes
from vlyard.formats.readers.answers import recognise
from vlyard.formats.reading import Reading, Unit, Wanted
from vlyard.formats.record import Keypoint, Look
from vlyard.formats.tree import Tree

CAT: dict[str, Any] = {"bbox_2d": [100, 200, 400, 600], "label": "cat"}
DOG: dict[str, Any] = {"bbox_2d": [500, 500, 900, 900], "label": "dog"}


def sample(answer: object = None, picture: str = "a.jpg", question: str = "Find all.", **more: Any) -> dict[str, Any]:
    """As LLaMA-Factory has it."""
    text = answer if isinstance(answer, str) else json.dumps([CAT] if answer is None else answer)
    messages = [{"role": "user", "content": f"<image>\n{question}"}, {"role": "assistant", "content": text}]
    return {"messages": messages, "images": [picture], **more}


def lines(*samples: object) -> str:
    return "\n".join(each if isinstance(each, str) else json.dumps(each) for each in samples)


def _one(root: Path, said: Any, look: Look = Look(100, 100)) -> Result:
    return read(recognise, put(root, {"a.jpg": b"", "data.json": [said]}), look=look)


USER, MODEL = {"from": "human", "value": "<image>\nFind all."}, {"from": "gpt", "value": json.dumps([CAT])}
IN_PARTS = [
    {"role": "system", "content": [{"type": "text", "text": "You see."}]},
    {"role": "user", "content": [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "Find all."}]},
    {"role": "assistant", "content": [{"type": "text", "text": json.dumps([CAT])}]},
]
SLOTS = '[{"bbox_2d": <bbox>, "label": "<ref-object>"}]'


@pytest.mark.parametrize(
    ("said", "layout"),
    [
        (sample(), "sharegpt"),
        ({"conversations": [USER, MODEL], "images": ["a.jpg"]}, "sharegpt"),
        ({"image": "a.jpg", "conversations": [USER, MODEL]}, "qwen"),
        ({"image": ["a.jpg"], "conversations": [USER, MODEL]}, "qwen"),
        ({"messages": IN_PARTS}, "trl"),
        ({"prompt": IN_PARTS[:2], "completion": IN_PARTS[2:]}, "sharegpt"),
        ({**sample(), "images": [{"path": "a.jpg"}]}, "sharegpt"),
        (sample(SLOTS, objects={"ref": ["cat"], "bbox": [[10, 20, 40, 60]]}), "swift"),
        (sample(SLOTS, objects={"ref": ["cat"], "bbox": [[0.1, 0.2, 0.4, 0.6]], "bbox_type": "norm1"}), "swift"),
        (sample("<ref-object><bbox>", objects={"ref": ["cat"], "bbox": [[10, 20, 40, 60]]}), "swift"),
    ],
)
@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_the_samples_of_every_trainer_are_read(tmp_path: Path, said: Any, layout: str, name: str) -> None:
    put(tmp_path, {"a.jpg": b"", name: [said] if name == "data.json" else lines(said)})
    result = read(recognise, tmp_path, policy="strict")
    (target,) = result.targets
    assert (target.label, target.box.to_thousand()) == ("cat", (100, 200, 400, 600))
    assert (result.reader.layout, result.rows, result.strays) == (layout, [], [])


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps([CAT, DOG]),
        json.dumps({"objects": [CAT, DOG]}),
        f"```json\n{json.dumps([CAT, DOG])}\n```",
        f"There are two:\n{json.dumps([CAT, DOG])}\nThat is all.",
        f"<think>Hm.</think>{json.dumps([CAT, DOG])}",
        json.dumps([{"bbox": CAT["bbox_2d"], "category": "cat"}, DOG]),
        json.dumps({"objects": [{"class_id": 0, **CAT}, {"class_id": 1, **DOG}]}),
        "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(100,200),(400,600)<|box_end|>"
        "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(500,500),(900,900)<|box_end|>",
    ],
)
def test_answers_are_read_in_every_shape(tmp_path: Path, answer: str) -> None:
    result = _one(tmp_path, sample(answer))
    assert [(target.label, target.box.to_thousand()) for target in result.targets] == [
        ("cat", (100, 200, 400, 600)),
        ("dog", (500, 500, 900, 900)),
    ]
    assert result.rows == []


def test_points_are_places_and_say_which_keypoint_they_are(tmp_path: Path) -> None:
    answer = [{"point_2d": [100, 200], "label": "cat", "role": "nose"}, {"point_2d": [[1, 2], [3, 4]], "label": "dog"}]
    targets = _one(tmp_path, sample(answer)).targets
    assert [target.is_point for target in targets] == [True, True, True]
    assert targets[0].keypoints == (Keypoint(0.1, 0.2, "nose"),)


def test_attributes_are_kept_and_ids_name_what_has_no_label(tmp_path: Path) -> None:
    answer = [{**CAT, "occluded": True, "colour": "red", "class_id": 3}, {"class_id": 5, "bbox_2d": [1, 2, 3, 4]}]
    first, second = _one(tmp_path, sample(answer)).targets
    assert first.attributes == {"occluded": True, "colour": "red"}
    assert second.label == "class_5"


def test_an_empty_list_is_a_picture_without_objects(tmp_path: Path) -> None:
    for answer in ("[]", '{"objects": []}', "```json\n[]\n```"):
        result = _one(tmp_path, sample(answer))
        assert (list(result.units), result.targets, result.rows, result.strays) == (["a.jpg"], [], [], [])


@pytest.mark.parametrize(
    ("entry", "codes", "kept"),
    [
        ({**CAT, "bbox_2d": [100, 200, 400]}, ["malformed"], 0),
        ({**CAT, "bbox_2d": None}, ["malformed"], 0),
        ({**CAT, "bbox_2d": [100, 200, "400", 600]}, ["number_as_text"], 1),
        ({**CAT, "bbox_2d": [400, 200, 100, 600]}, ["swapped_corners"], 1),
        ({**CAT, "bbox_2d": [100, 200, 100, 600]}, ["no_area"], 0),
        ({**CAT, "bbox_2d": [100, 200, 1005, 600]}, ["outside"], 1),
        ({**CAT, "bbox_2d": [1000, 2000, 3000, 4000]}, ["far_outside"], 0),
        ({"bbox_2d": CAT["bbox_2d"]}, ["no_label"], 0),
        ({"point_2d": [1, "x"], "label": "cat"}, ["not_a_number"], 0),
        ({"point_2d": 5, "label": "cat"}, ["malformed"], 0),
    ],
)
def test_every_fault_of_an_object_is_named(tmp_path: Path, entry: Any, codes: list[str], kept: int) -> None:
    result = _one(tmp_path, sample([entry]))
    assert (result.codes, len(result.targets), result.accounted) == (codes, kept, 1)
    assert str(result.rows[0].place) == "data.json:[0].objects[0]"


def test_an_answer_that_was_cut_off_gives_what_came_before_and_says_so(tmp_path: Path) -> None:
    result = _one(tmp_path, sample(json.dumps([CAT, DOG])[:-30]))
    assert [target.label for target in result.targets] == ["cat"]
    assert result.codes == ["answer_damaged"]


@pytest.mark.parametrize(
    ("objects", "codes"),
    [
        ({"ref": ["cat"], "bbox": [[10, 20, 40]]}, ["malformed"]),
        ({"ref": ["cat"], "bbox": [[10, 20, 40, 60]], "bbox_type": "mystery"}, ["malformed"]),
        ({"ref": ["cat"], "bbox": [[10, 20, 40, 60], [1, 2, 3, 4]]}, ["entry_unusable"]),
    ],
)
def test_what_is_wrong_with_the_objects_of_ms_swift_is_named(
    tmp_path: Path, objects: dict[str, Any], codes: list[str]
) -> None:
    result = _one(tmp_path, sample(SLOTS, objects=objects))
    assert (result.codes, result.accounted) == (codes, len(objects["bbox"]))


def test_pixels_without_a_size_are_refused(tmp_path: Path) -> None:
    objects = {"ref": ["cat"], "bbox": [[10, 20, 40, 60]], "bbox_type": "real"}
    assert _one(tmp_path, sample(SLOTS, objects=objects), Look()).codes == ["size_unknown"]


TURNS = sample()["messages"]


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({**sample(), "images": ["a.jpg", "b.jpg"]}, "2 pictures"),
        ({**sample(), "images": []}, "0 pictures"),
        ({"messages": [*TURNS, *TURNS], "images": ["a.jpg"]}, "4 turns"),
        ({"messages": TURNS[:1], "images": ["a.jpg"]}, "1 turns"),
        ({"messages": ["hello"], "images": ["a.jpg"]}, "one of its turns"),
        (sample(picture="https://example.org/a.jpg"), "not a file"),
        (sample("A cat on a mat."), "no objects"),
        (sample(SLOTS * 2, objects={"ref": ["cat"], "bbox": [[1, 2, 3, 4]]}), "more <"),
        (5, "must be a table"),
    ],
)
def test_samples_that_cannot_be_read_are_refused_one_by_one_with_file_and_number(
    tmp_path: Path, said: Any, says: str
) -> None:
    put(tmp_path, {"a.jpg": b"", "list.json": [sample(), said], "lines.jsonl": lines(sample(), "", said, "{broken")})
    result = read(recognise, tmp_path)
    assert len(result.targets) == 1
    assert [str(stray.place) for stray in result.strays] == ["lines.jsonl:3", "lines.jsonl:4", "list.json:[1]"]
    assert says in result.strays[0].finding.reason
    assert "not JSON" in result.strays[1].finding.reason


def test_samples_of_one_picture_are_joined_and_what_they_say_again_counts_as_kept(tmp_path: Path) -> None:
    samples = [sample([CAT]), sample([DOG]), sample([]), sample([CAT, DOG]), sample([CAT], "b.jpg")]
    put(tmp_path, {"a.jpg": b"", "b.jpg": b"", "data.json": samples})
    result = read(recognise, tmp_path, policy="strict")
    first, second = result.readings.values()
    assert [target.label for target in first.targets] == ["cat", "dog"]
    assert (first.kept, first.spelling, result.rows) == (4, {"said_again": 2}, [])
    assert len(second.targets) == 1


def test_the_same_object_twice_in_one_answer_is_a_duplicate(tmp_path: Path) -> None:
    assert _one(tmp_path, sample([CAT, CAT])).codes == ["duplicate"]


def test_dataset_info_names_the_files_and_their_splits(tmp_path: Path) -> None:
    info = {
        "x": {"file_name": "x.json"},
        "x_val": {"file_name": "x_val.json"},
        "x_test": {"file_name": "t.jsonl"},
        "elsewhere": {"file_name": "not/here.json"},
        "hub": {"hf_hub_url": "someone/something"},
    }
    pictures: dict[str, object] = {f"images/{name}.jpg": b"" for name in "abcd"}
    files = {
        "dataset_info.json": info,
        "x.json": [sample(picture="images/a.jpg")],
        "x_val.json": [sample(picture="images/b.jpg")],
        "t.jsonl": lines(sample(picture="images/c.jpg")),
        "old.json": [sample(picture="images/d.jpg")],
    }
    result = read(recognise, put(tmp_path, {**pictures, **files}))
    assert result.splits == {"images/a.jpg": "train", "images/b.jpg": "val", "images/c.jpg": "test"}
    assert (result.reader.splits, result.reader.described_by) == (("train", "val", "test"), "dataset_info.json")
    assert any("old.json" in said for said in result.reader.evidence)


def test_a_picture_of_two_splits_stays_in_the_first(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": b"", "train.json": [sample()], "val.json": [sample([DOG])]})
    result = read(recognise, tmp_path)
    assert (result.splits, result.left_over) == ({"a.jpg": "train"}, [("val.json:[0]", "listed_twice")])


def test_missing_pictures_and_pictures_without_a_sample_are_accounted_for(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": b"", "b.jpg": b"", "data.json": [sample(), sample([CAT, DOG], "gone.jpg")]})
    result = read(recognise, tmp_path)
    assert result.left_over == [("data.json:[1]", "picture_missing"), ("b.jpg", "unlisted")]
    assert result.accounted == 3


def test_a_broken_list_is_refused_by_name(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": b"", "data.json": json.dumps([sample(), sample()])[:-20]})
    with pytest.raises(InvalidInput, match=r"data.json: this is not JSON"):
        recognised(recognise, tmp_path, tmp_path)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"shapes": []}', '[{"image_id": 1, "category_id": 2}]', json.dumps([sample("hello")])]
)
def test_other_files_are_not_taken_for_it(tmp_path: Path, content: str) -> None:
    put(tmp_path, {"a.jpg": b"", "x.json": content})
    assert recognise(Tree(tmp_path.resolve()), Wanted(scratch=tmp_path)) is None


NASTY = {0: "cat", 1: 'a "b" \\ {c}', 2: "<bbox>", 3: "<image> <ref-object>", 4: "猫", 5: "two\nlines"}
OURS = ["sharegpt", "sharegpt-from-value", "qwen", "swift", "trl", "tutorial"]


@pytest.mark.parametrize("to", OURS)
@pytest.mark.parametrize(
    "options", [{}, {"order": "shuffled"}, {"max_boxes": 2, "questions": 2}, {"answer": "objects"}]
)
def test_what_our_writers_write_is_read_back(tmp_path: Path, to: str, options: dict[str, Any]) -> None:
    objects = [target(label, (0.1, n / 10, 0.5, n / 10 + 0.05), class_id=n) for n, label in NASTY.items()]
    records = [record(*objects), record(objects[0], name="b.jpg", split="val", index=1), record(name="c.jpg", index=2)]
    written(tmp_path / "set", records, Classes(NASTY), to=to, **options)
    result = read(recognise, tmp_path / "set", policy="strict", look=Look(*SIZE))
    assert (result.rows, result.strays if to != "tutorial" else []) == ([], [])
    back = {name: {(each.label, each.box.to_thousand()) for each in reading.targets}
            for name, reading in result.readings.items()}  # fmt: skip
    assert back["images/a.jpg"] == {(each.label.strip(), each.box.to_thousand()) for each in objects}
    assert back["images/b.jpg"] == {("cat", objects[0].box.to_thousand())}
    assert result.splits["images/b.jpg"] == "val"


def test_a_question_for_each_class_gives_one_picture_with_all_objects(tmp_path: Path) -> None:
    objects = [target("cat"), target("dog", (0.1, 0.2, 0.3, 0.4)), target("cat", (0.5, 0.5, 0.6, 0.6))]
    written(tmp_path / "set", [record(*objects)], to="sharegpt", ask="each", negatives=1)
    (reading,) = read(recognise, tmp_path / "set", policy="strict").readings.values()
    assert sorted(each.label for each in reading.targets) == ["cat", "cat", "dog"]


thousandth = st.integers(0, 999)


@given(st.lists(st.tuples(thousandth, thousandth, thousandth, thousandth), min_size=1, max_size=5, unique=True))
@settings(max_examples=25)
def test_boxes_that_are_written_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[int, int, int, int]]
) -> None:
    root = tmp_path_factory.mktemp("set")
    corners = sorted({(x1, y1, max(x1 + 1, x2), max(y1 + 1, y2)) for x1, y1, x2, y2 in boxes})
    answer = [{"bbox_2d": list(box), "label": "cat"} for box in corners]
    result = read(recognise, put(root, {"a.jpg": b"", "data.json": [sample(answer)]}), policy="strict")
    assert [target.box.to_thousand() for target in result.targets] == corners
    assert result.rows == []


@pytest.mark.parametrize("said", [[CAT], "Here: " + json.dumps([CAT]), "<box>"])
def test_boxes_in_pixels_are_of_the_picture_where_that_is_said(tmp_path: Path, said: object) -> None:
    if said == "<box>":
        said = "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(100,200),(400,600)<|box_end|>"
    root = put(tmp_path, {"a.jpg": b"", "data.json": [sample(said)]})
    reader = recognise(Tree(root), Wanted(coordinates="pixels-xyxy", scratch=tmp_path))
    assert reader is not None
    (unit,) = [item for item in reader.units() if isinstance(item, Unit)]
    for look, corners, refused in ((Look(800, 1200), [(0.125, 1 / 6, 0.5, 0.5)], 0), (Look(), [], 1)):
        reading = Reading("fix")
        reader.read(unit, look, reading)
        assert [each.box.corners for each in reading.targets] == corners
        assert reading.refused == refused  # nobody looked: their size is not known
    with pytest.raises(InvalidInput, match="choose pixels-xyxy"):
        recognise(Tree(root), Wanted(coordinates="pixels-xywh", scratch=tmp_path))
