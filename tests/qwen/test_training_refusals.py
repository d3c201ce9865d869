"""Every sample that cannot be learned is accounted for, and named with its reason."""

from pathlib import Path

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


def test_damage_behind_a_header_is_named_by_its_sample_when_it_is_opened(tmp_path: Path, processor: Processor) -> None:
    folder = dataset(tmp_path / "set", [row(), row(images=["1.png"])])
    content = bytearray((folder / "0.png").read_bytes())
    content[2000:3000] = bytes(1000)
    (folder / "0.png").write_bytes(content)

    learned = prepare(spec(), folder, processor).learned

    with pytest.raises(UnreadablePicture, match=r"data.json: sample 1, 0.png: it is damaged"):
        learned[0]
    Image.new("RGB", (10, 900)).save(folder / "1.png")
    with pytest.raises(UnreadablePicture, match=r"data.json: sample 2, 1.png: it has 10 × 900 pixels"):
        learned[1]


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
