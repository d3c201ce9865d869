"""Two evaluations side by side: what was gained and lost, and in which pictures."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.language.small_api import KEY, SmallApi, serving
from vlyard.cli.app import build
from vlyard.errors import InvalidInput
from vlyard.formats.comparing import compare

CAT, DOG = {"label": "cat", "bbox_2d": [0, 0, 100, 100]}, {"label": "dog", "bbox_2d": [200, 0, 300, 100]}


def line(picture: str, truth: Sequence[Any], found: Sequence[int] = (), false: int = 0, **more: Any) -> dict[str, Any]:
    """One question: `found` are the places of the true objects that were found, `false` boxes around nothing."""
    return {
        "sample": 1,
        "picture": picture,
        "question": "Where?",
        "truth": list(truth),
        "matches": [{"truth": at, "found": number, "iou": 0.9} for number, at in enumerate(found)],
        "true_positives": len(found),
        "false_positives": false,
        "false_negatives": len(truth) - len(found),
        **more,
    }


def written(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
    return path


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    before = written(
        tmp_path / "a.jsonl",
        line("same.png", [CAT], [0]),
        line("lost.png", [CAT, DOG], [0, 1]),
        line("gained.png", [CAT]),
        line("swapped.png", [CAT, DOG], [0]),
        line("alarm.png", []),
    )
    after = written(
        tmp_path / "b.jsonl",
        line("alarm.png", [], false=1),
        line("swapped.png", [CAT, DOG], [1]),
        line("gained.png", [CAT], [0]),
        line("lost.png", [CAT, DOG], [0]),
        line("same.png", [CAT], [0]),
    )
    return before, after


def test_pictures_that_changed_are_named_the_largest_change_first(both: tuple[Path, Path]) -> None:
    found = compare(*both)

    told = [
        (change.picture, [each.label for each in change.gained], [each.label for each in change.lost], change.f1_delta)
        for change in found.changed
    ]
    assert told == [
        ("gained.png", ["cat"], [], 1.0),
        ("alarm.png", [], [], -1.0),
        ("lost.png", [], ["dog"], pytest.approx(2 / 3 - 1)),
        ("swapped.png", ["dog"], ["cat"], 0.0),
    ]


def test_totals_are_those_of_all_questions_that_both_have(both: tuple[Path, Path]) -> None:
    found = compare(*both)

    assert found.questions == 5
    assert found.before.model_dump() == {"true_positives": 4, "false_positives": 0, "false_negatives": 2}
    assert found.after.model_dump() == {"true_positives": 4, "false_positives": 1, "false_negatives": 2}
    assert [found.f1_before, found.f1_after] == pytest.approx([8 / 10, 8 / 11])


def test_questions_that_only_one_has_are_named_and_do_not_count(tmp_path: Path) -> None:
    before = written(tmp_path / "a", line("both.png", [CAT], [0]), line("old.png", [CAT], [0]))
    after = written(tmp_path / "b", line("new.png", [CAT]), line("both.png", [CAT], [0]))

    found = compare(before, after)

    assert (found.only_before, found.only_after, found.changed) == (("old.png",), ("new.png",), ())
    assert found.f1_before == found.f1_after == 1.0


def test_several_questions_about_a_picture_are_told_apart_by_their_order(tmp_path: Path) -> None:
    before = written(tmp_path / "a", line("x.png", [CAT], [0]), line("x.png", [DOG]))
    after = written(tmp_path / "b", line("x.png", [CAT], [0], question="Other words"), line("x.png", [DOG], [0]))

    [change] = compare(before, after).changed

    assert [each.label for each in change.gained] == ["dog"]


def test_another_truth_is_told(tmp_path: Path) -> None:
    before, after = written(tmp_path / "a", line("x.png", [CAT])), written(tmp_path / "b", line("x.png", [DOG]))

    assert compare(before, after).other_truth == 1


def test_of_objects_that_are_alike_as_many_are_gained_as_were_missed(tmp_path: Path) -> None:
    before = written(tmp_path / "a", line("x.png", [CAT, CAT], [1]))
    after = written(tmp_path / "b", line("x.png", [CAT, CAT], [0, 1]))

    [change] = compare(before, after).changed

    assert len(change.gained) == 1


@pytest.mark.parametrize(
    "damaged", ["nonsense", "[]", "{}", json.dumps(line("x.png", [CAT], [3])), json.dumps({"picture": "x", "truth": 3})]
)
def test_a_file_that_is_no_evaluation_is_named_with_its_line(tmp_path: Path, damaged: str) -> None:
    good = written(tmp_path / "a.jsonl", line("x.png", [CAT]))
    (tmp_path / "b.jsonl").write_text(json.dumps(line("x.png", [CAT])) + "\n" + damaged + "\n")

    with pytest.raises(InvalidInput, match=r"b\.jsonl:2: it is no line of an evaluation"):
        compare(good, tmp_path / "b.jsonl")


def test_evaluations_of_other_pictures_are_refused(tmp_path: Path) -> None:
    before, after = written(tmp_path / "a", line("x.png", [CAT])), written(tmp_path / "b", line("y.png", [CAT]))

    with pytest.raises(InvalidInput, match="nothing in common"):
        compare(before, after)


# --- the command ----------------------------------------------------------------------------------------------


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serving(SmallApi()) as served:
        yield served


def run(*words: object, url: str = "http://127.0.0.1:9") -> Result:
    arguments = [str(word) for word in words]
    return CliRunner(env={"VLYARD_URL": url, "VLYARD_API_KEY": KEY}).invoke(build(arguments), arguments)


def test_the_command_lists_what_changed(both: tuple[Path, Path]) -> None:
    result = run("compare", *both)

    assert result.exit_code == 0
    assert "0.800 -> 0.727 (-0.073)" in result.stdout
    rows = [row.split()[0] for row in result.stdout.splitlines() if ".png" in row]
    assert rows == ["gained.png", "alarm.png", "lost.png", "swapped.png"]


def test_so_many_are_listed_as_was_asked_for_and_json_has_all(both: tuple[Path, Path]) -> None:
    listed, whole = run("compare", *both, "--limit", 1), run("compare", *both, "--limit", 1, "--json")

    assert "and 3 more" in listed.stdout
    assert listed.stdout.count(".png") == 1
    assert len(json.loads(whole.stdout)["changed"]) == 4


def test_a_folder_stands_for_the_file_in_it(both: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "fetched").mkdir()
    both[1].rename(tmp_path / "fetched" / "pictures.jsonl")

    assert run("compare", both[0], tmp_path / "fetched").exit_code == 0


def test_what_a_terminal_would_obey_is_not_printed(tmp_path: Path) -> None:
    label = {**CAT, "label": "\x1b[2Jcat"}
    before, after = (
        written(tmp_path / "a", line("x.png", [label])),
        written(tmp_path / "b", line("x.png", [label], [0])),
    )

    assert "\x1b[2J" not in run("compare", before, after).stdout


def test_what_is_neither_a_file_nor_a_jobs_id_is_refused(both: tuple[Path, Path]) -> None:
    result = run("compare", both[0], "missing.jsonl")

    assert isinstance(result.exception, InvalidInput)
    assert "no such file" in str(result.exception)


def job_of(api: SmallApi, lines: Path) -> str:
    """An evaluation that has ended and made those lines."""
    figure = {"value": 0.5}
    objects = dict.fromkeys(("true_positives", "false_positives", "false_negatives"), 1)
    at_iou = {"iou": 0.5, **dict.fromkeys(("precision", "recall", "f1"), figure), **objects}
    counts = dict.fromkeys(("samples", "unanswered", "objects", "found", "counting_error", "negatives"), 1)
    rates = dict.fromkeys(("parse_failures", "salvaged", "loops"), 0.0)
    file = api.add_artefact("pictures.jsonl", lines.read_bytes())
    result = {
        **counts, **rates, "at_50": at_iou, "at_75": at_iou, "mean_iou": figure, "confidence": "ones",
        "artefacts": {"pictures": str(file.id)},
    }  # fmt: skip
    return str(api.add_job(kind="evaluation", state="succeeded", result=result).id)


def test_jobs_are_compared_by_their_ids(both: tuple[Path, Path], api: SmallApi) -> None:
    before, after = (job_of(api, path) for path in both)

    of_jobs, of_files = run("compare", before, after, "--json", url=api.url), run("compare", *both, "--json")

    assert of_jobs.exit_code == 0
    assert json.loads(of_jobs.stdout) == json.loads(of_files.stdout)


def test_a_job_that_is_no_evaluation_is_refused(both: tuple[Path, Path], api: SmallApi) -> None:
    noop = api.add_job(state="succeeded", result={"attempt": 1})

    result = run("compare", both[0], noop.id, url=api.url)

    assert isinstance(result.exception, InvalidInput)
    assert "no evaluation" in str(result.exception)
