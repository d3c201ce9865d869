"""The files of samples: what each trainer reads, to the byte where it was fixed before, and loadable by `datasets`."""

import pickle
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from datasets import Dataset  # type: ignore[import-untyped]
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trl.data_utils import is_conversational, prepare_multimodal_messages

from tests.language.llama_factory import problems
from tests.language.made_records import CLASSES, record, target, targets_anywhere, written
from vlyard.formats.answer import parse_answer
from vlyard.formats.answering import answer_text
from vlyard.formats.asking import Asker
from vlyard.formats.record import Keypoint, Question, Target
from vlyard.formats.writers.table import WRITERS, make_writer
from vlyard.jobs.conversion import DEFAULT_PROMPT, ConversionOptions

CAT, DOG = target("cat"), target("dog", (0, 0, 0.1, 1))
ANSWER = '[{"bbox_2d": [250, 250, 750, 750], "label": "cat"}, {"bbox_2d": [0, 0, 100, 1000], "label": "dog"}]'
QUESTION = f"<image>\n{DEFAULT_PROMPT}"
RECORDS = [
    record(CAT, DOG, name="a.jpg"),
    record(name="b.jpg", index=1),
    record(DOG, name="deep/größe 猫.jpg", split="val", index=2),
    record(CAT, target('a "quoted" <image>'), name="c.jpg", split="test", index=3),
]
SUFFIXES = {  # the option `to` -> of its files of samples
    "sharegpt": ".json",
    "sharegpt-from-value": ".json",
    "qwen": ".json",
    "swift": ".jsonl",
    "trl": ".jsonl",
    "tutorial": ".json",
}


INFO = """{
  "grounding": {
    "file_name": "grounding.json",
    "formatting": "sharegpt",
    "columns": {
      "messages": "messages",
      "images": "images"
    },
    "tags": {
      "role_tag": "role",
      "content_tag": "content",
      "user_tag": "user",
      "assistant_tag": "assistant"
    }
  }
}
"""


def samples(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    return [orjson.loads(line) for line in content.splitlines()] if path.suffix == ".jsonl" else orjson.loads(content)


def swift_answer(sample: dict[str, Any]) -> str:
    """What ms-swift makes of an answer with `QWENVL_BBOX_FORMAT=new` for a model that speaks in thousandths.

    By swift/template/base.py: a `norm1` coordinate becomes `int(round(x / 1 * 1000))`, a box the text of that list.
    """
    boxes = iter(sample["objects"]["bbox"])
    names = iter(sample["objects"]["ref"])
    assert sample["objects"]["bbox_type"] == "norm1"

    def filled(found: re.Match[str]) -> str:
        return str([round(x / 1 * 1000) for x in next(boxes)]) if found[0] == "<bbox>" else next(names)

    answer = re.sub("<bbox>|<ref-object>", filled, sample["messages"][1]["content"])
    assert not [*boxes, *names]
    return answer


# --- LLaMA-Factory --------------------------------------------------------------------------------------------


def test_sharegpt_is_what_it_was_to_the_byte(tmp_path: Path) -> None:
    written(tmp_path, RECORDS[:2])
    escaped = ANSWER.replace('"', '\\"')
    asked = QUESTION.replace("\n", "\\n")

    assert (tmp_path / "grounding.json").read_text("utf-8") == (
        f'[\n{{"messages":[{{"role":"user","content":"{asked}"}},{{"role":"assistant","content":"{escaped}"}}],'
        f'"images":["images/a.jpg"]}},\n{{"messages":[{{"role":"user","content":"{asked}"}},'
        '{"role":"assistant","content":"[]"}],"images":["images/b.jpg"]}\n]\n'
    )
    assert (tmp_path / "dataset_info.json").read_text("utf-8") == INFO


@pytest.mark.parametrize("to", ["sharegpt", "sharegpt-from-value", "tutorial"])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.lists(targets_anywhere(), max_size=4), min_size=1, max_size=3))
def test_llama_factory_reads_whatever_the_labels_are(
    tmp_path_factory: pytest.TempPathFactory, to: str, parts: list[list[Target]]
) -> None:
    folder = tmp_path_factory.mktemp("out")
    records = [record(*targets, name=f"{index}.jpg", index=index) for index, targets in enumerate([*parts, [CAT]])]
    written(folder, records, to=to)

    assert problems(folder) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"content":"<image>\\n', '"content":"', "1 images and 0 times <image>"),
        ("images/a.jpg", "images/x.jpg", "images/x.jpg is not there"),
        ('"role":"user"', '"role":"human"', "turn 0 is by human"),
        ('{"role":"assistant","content":"[]"}', "", "turns"),
    ],
)
def test_the_check_of_llama_factory_sees_what_is_wrong(tmp_path: Path, old: str, new: str, problem: str) -> None:
    written(tmp_path, RECORDS)
    path = tmp_path / "grounding.json"
    path.write_text(path.read_text("utf-8").replace(old, new).replace("},]", "}]"), "utf-8")

    assert any(problem in each for each in problems(tmp_path))


def test_from_value_turns_need_no_tags(tmp_path: Path) -> None:
    written(tmp_path, RECORDS, to="sharegpt-from-value")
    turns = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]

    assert samples(tmp_path / "grounding.json")[0] == {"conversations": turns, "images": ["images/a.jpg"]}
    assert orjson.loads((tmp_path / "dataset_info.json").read_bytes())["grounding"] == {
        "file_name": "grounding.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "images": "images"},
    }


# --- the others -----------------------------------------------------------------------------------------------


def test_qwens_own_code_gets_one_picture_and_turns_and_is_told_how_to_register_them(tmp_path: Path) -> None:
    written(tmp_path, RECORDS, to="qwen", name="street")
    turns = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]
    registered: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text("utf-8"), re.DOTALL)
    exec(code, {"data_dict": registered})

    assert samples(tmp_path / "street.json")[0] == {"image": "images/a.jpg", "conversations": turns}
    assert registered["street"] == {"annotation_path": "/path/to/street.json", "data_path": "/path/to"}
    assert all((tmp_path / Path(entry["annotation_path"]).name).is_file() for entry in registered.values())


@given(st.lists(targets_anywhere(), max_size=5), st.sampled_from(["native", "objects"]), st.booleans())
def test_ms_swift_trains_on_the_native_answer_to_the_character(
    targets: list[Target], answer: str, points: bool
) -> None:
    chosen = {"to": "swift", "answer": answer, "targets": "points" if points else "boxes", "attributes": ("kind",)}
    options = ConversionOptions.model_validate(chosen)
    one = target("cat", attributes={"kind": "<bbox>"}, keypoints=(Keypoint(0.3, 0.999, "nose"),))
    about = record(*targets, one)
    asked = about.targets
    writer = make_writer(options, CLASSES, ("train",))
    (piece,) = writer.render(about, [Question("Find all.", asked, answer_text(asked, options))])

    assert swift_answer(orjson.loads(piece.entries[0])) == answer_text(asked, options)


def test_a_swift_sample_is_as_its_documentation_shows_it(tmp_path: Path) -> None:
    written(tmp_path, RECORDS, to="swift")
    entry = '{"bbox_2d": <bbox>, "label": "<ref-object>"}'

    assert samples(tmp_path / "grounding.jsonl")[0] == {
        "messages": [
            {"role": "user", "content": QUESTION},
            {
                "role": "assistant",
                "content": f"[{entry}, {entry}]",
            },
        ],
        "images": ["images/a.jpg"],
        "objects": {"ref": ["cat", "dog"], "bbox": [[0.25, 0.25, 0.75, 0.75], [0, 0, 0.1, 1]], "bbox_type": "norm1"},
    }
    assert "QWENVL_BBOX_FORMAT=new" in (tmp_path / "README.md").read_text("utf-8")


def test_trl_takes_the_messages_and_puts_the_picture_first(tmp_path: Path) -> None:
    written(tmp_path, RECORDS, to="trl")
    for sample in samples(tmp_path / "grounding.jsonl"):
        assert is_conversational(sample)
        user, assistant = prepare_multimodal_messages(sample["messages"], images=sample["images"])
        assert user["content"] == [
            {"type": "image", "image": sample["images"][0]},
            {"type": "text", "text": DEFAULT_PROMPT},
        ]
        assert assistant["role"] == "assistant"
        assert parse_answer(assistant["content"][0]["text"]).notes == ()


# --- all of them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", SUFFIXES)
def test_datasets_loads_every_split_with_one_row_for_each_sample(tmp_path: Path, to: str) -> None:
    names = written(tmp_path / "out", RECORDS, to=to)
    for split, name in names.items():
        path = tmp_path / "out" / f"{name}{SUFFIXES[to]}"
        # What `load_dataset("json", …)` does, without its counting of downloads.
        rows = Dataset.from_json(str(path), cache_dir=str(tmp_path / "cache"))

        assert [_without_none(row) for row in rows] == samples(path)
        assert len(rows) == (2 if split == "train" and to != "tutorial" else 1)


def _without_none(value: Any) -> Any:
    """As it was before `datasets` gave every part of a list the same keys."""
    if isinstance(value, dict):
        return {key: _without_none(each) for key, each in value.items() if each is not None}
    return [_without_none(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("to", SUFFIXES)
def test_the_main_split_has_the_plain_name_even_where_it_has_no_sample(tmp_path: Path, to: str) -> None:
    names = written(tmp_path, RECORDS[2:], to=to, name="street")

    assert names == {"val": "street_val", "test": "street_test"}
    assert not (tmp_path / f"street{SUFFIXES[to]}").exists()


@pytest.mark.parametrize("to", SUFFIXES)
def test_every_question_is_a_sample_of_its_own(tmp_path: Path, to: str) -> None:
    written(tmp_path, RECORDS[:1], to=to, ask="each", negatives=0, questions=2)

    assert len(samples(tmp_path / f"grounding{SUFFIXES[to]}")) == 4


@pytest.mark.parametrize("to", WRITERS)
def test_a_writer_can_be_sent_to_another_process_and_writes_the_same(to: str) -> None:
    options = ConversionOptions.model_validate({"to": to})
    writer = make_writer(options, CLASSES, ("train", "val"))
    sent = pickle.loads(pickle.dumps(writer))
    questions = Asker(options, CLASSES).questions(RECORDS[0])

    assert sent.render(RECORDS[0], questions) == writer.render(RECORDS[0], questions)
    assert sent.place("val", "a/b.jpg") == writer.place("val", "a/b.jpg")


def test_every_output_of_the_options_has_a_writer() -> None:
    assert set(WRITERS) == set(ConversionOptions.model_json_schema()["properties"]["to"]["enum"])
