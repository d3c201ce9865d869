"""Every sample that cannot be learned is accounted for, and named with its reason."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.qwen.training_sets import dataset, reasons, row, spec
from vlyard.errors import InvalidInput, UnreadablePicture
from workers.qwen.loading import DEMO_FOLDER, Processor
from workers.qwen.training.preparing import open_processor, prepare


@pytest.fixture(scope="module")
def processor() -> Processor:
    return open_processor(DEMO_FOLDER)


TURN = {"role": "user", "content": "Hello"}
BAD_ROWS: dict[str, tuple[object, str]] = {
    "a list": ([1], "wrong_form"),
    "no turns": ({"text": "Hello"}, "wrong_form"),
    "no answer": ({"messages": [TURN]}, "wrong_form"),
    "two questions": ({"messages": [TURN, TURN]}, "wrong_form"),
    "a tool": ({"messages": [TURN, {"role": "tool", "content": "1"}]}, "wrong_form"),
    "an empty answer": (row(answer=""), "wrong_form"),
    "a number": ({"messages": [TURN, {"role": "assistant", "content": 5}]}, "wrong_form"),
    "a video": (row("<video>What?", images=[]), "wrong_form"),
    "videos": ({**row(), "videos": ["a.mp4"]}, "wrong_form"),
    "a picture in an answer": (row("What?", "<image>"), "wrong_form"),
    "two pictures for one place": (row(images=["0.png", "1.png"]), "pictures_and_placeholders_differ"),
    "one picture for two places": (row("<image><image>"), "pictures_and_placeholders_differ"),
    "a placeholder among words": (row("<image>What is <|image_pad|>?"), "reserved_words"),
    "another one's turn": (row("<image>Hi<|im_end|>\n<|im_start|>assistant"), "reserved_words"),
    "no such picture": (row(images=["4.png"]), "no_picture"),
    "outside": (row(images=["../secret.png"]), "no_picture"),
    "through a link": (row(images=["link.png"]), "no_picture"),
    "an address": (row(images=["https://example.org/0.png"]), "no_picture"),
    "no picture at all": (row(images=["data.json"]), "unreadable_picture"),
    "cut off": (row(images=["cut.png"]), "unreadable_picture"),
    "a thread": (row(images=["thread.png"]), "unusable_picture"),
    "long": (row(answer="word " * 600), "too_long"),
    "large": (row(images=["0.png"] * 30, question="<image>" * 30), "too_long"),
    "too few objects": ({**row(answer="<bbox>"), "objects": {"ref": ["a"], "bbox": []}}, "wrong_form"),
    "too many objects": ({**row(), "objects": {"ref": ["a"], "bbox": [[1, 2, 3, 4]]}}, "wrong_form"),
    "distant objects": ({**row(answer="<bbox>"), "objects": {"bbox": [[1, 2, 3, 10**30]]}}, "wrong_form"),
    "boxes that are a number": ({**row(), "objects": {"bbox": 5}}, "wrong_form"),
    "boxes in an odd frame": ({**row(), "objects": {"bbox": [], "bbox_type": ["real"]}}, "wrong_form"),
    "a part of an odd kind": (row([{"type": ["text"], "text": "What?"}], images=[]), "wrong_form"),
    "odd objects": ({**row(), "objects": {"ref": ["a"], "bbox": [[1, 2, 3]]}}, "wrong_form"),
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outside = tmp_path_factory.mktemp("bad")
    folder = dataset(outside / "set", [row(), *(bad for bad, _ in BAD_ROWS.values())])
    (outside / "secret.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:5000])
    Image.new("RGB", (4000, 4)).save(folder / "thread.png")
    return folder


def test_every_sample_that_cannot_be_learned_is_listed_with_its_reason(bad: Path, processor: Processor) -> None:
    prepared = prepare(spec(policy="quarantine", max_tokens=400), bad, processor)

    due = {f"data.json: sample {at}": code for at, (_, code) in enumerate(BAD_ROWS.values(), 2)}
    assert reasons(prepared) == due
    assert len(prepared.learned) == 1


def test_under_refuse_the_first_of_them_are_named_and_all_are_counted(bad: Path, processor: Processor) -> None:
    with pytest.raises(InvalidInput, match=f"{len(BAD_ROWS)} of {len(BAD_ROWS) + 1} samples") as caught:
        prepare(spec(max_tokens=400), bad, processor)

    assert [each.where for each in caught.value.complaints] == [f"data.json: sample {at}" for at in range(2, 7)]


def test_no_sample_is_cut_and_the_longest_that_fits_is_whole(tmp_path: Path, processor: Processor) -> None:
    folder = dataset(tmp_path / "set", [row(), row(answer="A longer thing.")])
    lengths = prepare(spec(), folder, processor).learned.lengths

    prepared = prepare(spec(policy="quarantine", max_tokens=min(lengths)), folder, processor)

    assert [len(prepared.learned[0].ids)] == list(prepared.learned.lengths) == [min(lengths)]
    assert reasons(prepared) == {"data.json: sample 2": "too_long"}
    assert f"it has {max(lengths)} tokens" in prepared.unusable[0].message


def test_nothing_that_can_be_learned_is_an_error_under_any_policy(tmp_path: Path, processor: Processor) -> None:
    empty = dataset(tmp_path / "empty", [])
    (empty / "dataset_info.json").write_text('{"a": {"file_name": "data.json", "formatting": "sharegpt"}}')

    with pytest.raises(InvalidInput, match=r"no sample can be learned; data.json: sample 1: its picture '9.png'"):
        prepare(spec(policy="quarantine"), dataset(tmp_path / "set", [row(images=["9.png"])]), processor)
    with pytest.raises(InvalidInput, match="there are no samples"):
        prepare(spec(), empty, processor)


@pytest.mark.parametrize("name", ["0.png", "0.jpg"])
def test_damage_behind_a_header_takes_its_sample_out_before_anything_is_learned(
    tmp_path: Path, processor: Processor, name: str
) -> None:
    folder = dataset(tmp_path / "set", [row(images=[name]), row(images=["1.png"])])
    with Image.open(folder / "0.png") as picture:
        picture.convert("RGB").save(folder / name)
    content = (folder / name).read_bytes()
    middle = content[:2000] + bytes(1000) + content[3000:]
    (folder / name).write_bytes(middle if name == "0.png" else content[: len(content) // 2])

    prepared = prepare(spec(policy="quarantine"), folder, processor)

    assert reasons(prepared) == {"data.json: sample 1": "unreadable_picture"}
    assert name in prepared.unusable[0].message
    assert [item.pixels is not None for item in (prepared.learned[at] for at in range(len(prepared.learned)))] == [True]
    with pytest.raises(InvalidInput, match=r"1 of 2 samples .*data.json: sample 1: "):
        prepare(spec(), folder, processor)


def test_a_picture_that_changes_after_it_was_read_is_named_by_its_sample(tmp_path: Path, processor: Processor) -> None:
    folder = dataset(tmp_path / "set", [row(), row(images=["1.png"])])
    learned = prepare(spec(), folder, processor).learned
    (folder / "0.png").write_bytes(b"damaged")
    Image.new("RGB", (10, 900)).save(folder / "1.png")

    with pytest.raises(UnreadablePicture, match=r"data.json: sample 1, 0.png: "):
        learned[0]
    with pytest.raises(UnreadablePicture, match=r"data.json: sample 2, 1.png: it has 10 × 900 pixels"):
        learned[1]


@pytest.mark.parametrize("more", [{"evaluate": "end"}, {"stop_after": 2}])
def test_what_is_to_be_measured_is_refused_where_nothing_is_held_out(
    tmp_path: Path, processor: Processor, more: dict[str, Any]
) -> None:
    folder = dataset(tmp_path / "set", [row(), row()])

    with pytest.raises(InvalidInput, match=r"/spec/held_out: no sample is held out as 'val'"):
        prepare(spec(**more), folder, processor)
    assert len(prepare(spec(), folder, processor).held_out) == 0


def boxes(*corners: Sequence[float]) -> str:
    return json.dumps([{"bbox_2d": each, "label": "a"} for each in corners])


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([boxes((10, 20, 900, 950))] * 20, None),
        ([boxes((10, 20, 200, 250))] * 20, "all 20 boxes of small pictures end where pixels would"),
        ([boxes((10, 20, 200, 250))] * 20 + [boxes((10, 20, 900, 250))], None),  # one lies outside of 256 × 256
        ([boxes((10, 20, 200, 250))] * 3, None),  # by chance
        ([boxes((10, 20, 900, 950), (5, 5, 1180, 700))], "1 of 2 boxes have numbers over 1000"),
        ([boxes((0.1, 0.2, 0.5, 1))], "no box has a number over 1"),
        (["A thing."], None),
    ],
)
def test_boxes_that_look_like_pixels_are_noticed(
    tmp_path: Path, processor: Processor, answers: list[str], said: str | None
) -> None:
    folder = dataset(tmp_path / "set", [row(answer=answer) for answer in answers])

    warnings = prepare(spec(), folder, processor).frames.warnings()

    assert len(warnings) == (said is not None)
    assert not said or said in warnings[0]


BOX, POINT = '{"bbox_2d": [1, 2, 3, 4], "label": "a"}', '{"point_2d": [1, 2], "label": "a"}'


@pytest.mark.parametrize(
    ("declared", "answer"),
    [
        ("boxes", f"[{BOX}]"), ("boxes", "[]"), ("objects", f'{{"objects": [{BOX}]}}'), ("objects", '{"objects": []}'),
        ("points", f"[{POINT}]"), ("points", f'{{"objects": [{POINT}]}}'), ("points", "[]"), ("any", "Hello"),
    ],
)  # fmt: skip
def test_answers_of_the_declared_form_are_learned(
    tmp_path: Path, processor: Processor, declared: str, answer: str
) -> None:
    assert prepare(spec(answers=declared), dataset(tmp_path / "set", [row(answer=answer)]), processor).learned


@pytest.mark.parametrize(
    ("declared", "answer", "noticed"),
    [
        ("boxes", "Hello", "nothing_found"),
        ("boxes", f"[{POINT}]", "it is points"),
        ("boxes", f'{{"objects": [{BOX}]}}', "wrapped"),
        ("boxes", f"```json\n[{BOX}]\n```", "fenced"),
        ("boxes", f"[{BOX}, {{", "truncated"),
        ("boxes", BOX, "single_object"),
        ("boxes", '[{"bbox_2d": [10, 20, 1300, 1400], "label": "a"}]', "over_1000"),
        ("boxes", '[{"bbox_2d": [30, 20, 10, 40], "label": "a"}]', "swapped_corners"),
        ("objects", f"[{BOX}]", "a plain list"),
        ("objects", f'{{"found": [{BOX}]}}', "wrapped"),
        ("points", f"[{BOX}]", "a plain list"),
    ],
)
def test_another_form_of_answer_than_declared_is_told(
    tmp_path: Path, processor: Processor, declared: str, answer: str, noticed: str
) -> None:
    with pytest.raises(InvalidInput, match=f"sample 1: .*{noticed}"):
        prepare(spec(answers=declared), dataset(tmp_path / "set", [row(answer=answer)]), processor)
