"""The commands made from the table of kinds, as a user runs them."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from inspect import Parameter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import typer.main
from typer.testing import CliRunner

from tests.language.small_api import KEY, Fault, SmallApi, problem, serving
from tests.language.test_cli import PROGRAM, environment, run
from vlyard.cli.app import build
from vlyard.cli.kinds import COMMON
from vlyard.cli.options import parameters
from vlyard.errors import InvalidInput
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.ours import fields_set_by_us
from vlyard.jobs.repeating import option
from vlyard.jobs.view import Artefact

APP = build(["noop"])
COMMANDS = typer.main.get_command(APP).commands  # type: ignore[attr-defined]  # a group's; typer hides the type
DONE = {"state": "succeeded", "attempt": 1, "result": {"echo": "hello", "attempt": 1}}
ANSWER = {
    "text": "a [red]car",
    "objects": [
        {"type": "box", "label": "car", "bbox_2d": [1, 2, 3, 4], "bbox_pixels": [10, 20, 30.5, 40], "flags": ["fixed"]},
        {"type": "point", "label": "door", "point_2d": [5, 6]},
    ],
    "notes": ["it was cut"],
    "pictures": [{"width": 100, "height": 100}],
    "finish_reason": "stop",
    **dict.fromkeys(("prompt_tokens", "picture_tokens", "completion_tokens", "batch"), 1),
    **dict.fromkeys(("first_token_seconds", "waited_seconds", "generate_seconds"), 1.0),
}
MODEL = {
    "name": "demo",
    **dict.fromkeys(("attention", "attention_reason", "dtype", "dtype_reason", "device"), "x"),
    "bytes": 1,
    "warm": True,
    "load_seconds": 0.0,
}


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serving(SmallApi()) as api:
        yield api


def answered(picture: Artefact) -> dict[str, Any]:
    result = {"answers": [ANSWER], "model": MODEL, "artefacts": {"annotated": str(picture.id)}}
    return {"state": "succeeded", "attempt": 1, "result": result}


def submitted(api: SmallApi) -> Any:
    (body,) = [asked.body for asked in api.asked if (asked.method, asked.path) == ("POST", "/v1/jobs")]
    return json.loads(body)


# --- the commands themselves ----------------------------------------------------------------------------------


def test_every_kind_has_a_command_and_no_other_command_has_its_name() -> None:
    app = build([])
    names = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    names += [str(group.name) for group in app.registered_groups]

    assert set(KINDS) <= set(names)
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_the_options_are_the_fields_of_the_specification_and_those_that_all_kinds_share(kind: Any) -> None:
    taken = [each for parameter in COMMANDS[kind.name].params for each in parameter.opts]
    ours = {"kind", *fields_set_by_us(kind.spec)}
    fields = [name for name in kind.spec.model_fields if name not in ours]

    assert sorted(set(taken)) == sorted(taken)
    assert {option(name) for name in fields} <= set(taken)
    assert {option(name) for name in ours}.isdisjoint(taken)
    assert {each.name for each in COMMON}.isdisjoint(fields)
    assert {each.name for each in parameters(kind.spec, *ours)} == set(fields)
    assert all(each.kind is Parameter.KEYWORD_ONLY for each in COMMON)


def test_only_a_kind_for_administrators_says_so() -> None:
    for kind in KINDS.values():
        assert ("Administrators only." in run(None, kind.name, "--help").stdout) is kind.admin_only


# --- from files to results ------------------------------------------------------------------------------------


def test_a_picture_is_uploaded_asked_about_and_the_answer_shown_and_its_outputs_fetched(
    api: SmallApi, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"picture")
    drawn = api.add_artefact("annotated.png", b"drawn")
    api.life = [{"state": "queued"}, answered(drawn)]

    words = ("--image", tmp_path / "photo.jpg", "--prompt", "What?", "--no-annotate", "--label", "site=north")
    ran = run(api, "inference", *words, "--pool", "night", "--download", tmp_path / "new" / "out")

    uploaded = next(each for each in api.artefacts.values() if each.name == "photo.jpg")
    assert ran.returncode == 0, ran.stderr
    assert api.objects[f"/s3/{uploaded.id}"] == b"picture"
    sent = submitted(api)
    assert (sent["spec"]["image"], sent["spec"]["prompt"], sent["spec"]["annotate"]) == (
        str(uploaded.id),
        "What?",
        False,
    )
    assert (sent["pool"], sent["labels"]) == ("night", {"site": "north"})
    assert "a [red]car" in ran.stdout
    assert "10, 20, 30.5, 40 px" in ran.stdout
    assert "5, 6 of 1000" in ran.stdout
    assert str(drawn.id) in ran.stdout
    assert "--repeat cli|yaml|python" in ran.stderr
    assert (tmp_path / "new" / "out" / "annotated.png").read_bytes() == b"drawn"


def test_a_file_that_is_given_twice_is_uploaded_once(api: SmallApi, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"labels")

    ran = run(
        api, "conversion", "--source", tmp_path / "a.zip", "--tokenizer", f"file:{tmp_path}/../{tmp_path.name}/a.zip",
        "--class", "7", "--class", "car", "--split", "train=0.9", "--split", "val=0.1", "--no-wait", "--json",
    )  # fmt: skip

    (artefact,) = api.artefacts.values()
    spec = submitted(api)["spec"]
    assert (ran.returncode, json.loads(ran.stdout)["state"]) == (0, "queued")
    assert spec["source"] == spec["tokenizer"] == str(artefact.id)
    assert (spec["classes"], spec["split"]) == ([7, "car"], {"train": 0.9, "val": 0.1})


def test_an_id_an_output_of_another_job_and_the_name_of_a_model_are_no_paths(api: SmallApi) -> None:
    output = f"job:{uuid4()}/dataset"
    checkpoint = str(uuid4())

    ran = run(api, "prediction", "--dataset", output, "--model", "demo", "--adapter", checkpoint, "--no-wait")

    spec = submitted(api)["spec"]
    assert (ran.returncode, api.artefacts) == (0, {})
    assert (spec["dataset"], spec["model"], spec["adapter"]) == (output, "demo", checkpoint)


def test_messages_are_json_on_the_line_or_in_a_file(api: SmallApi, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"picture")
    content = [{"type": "image", "image": f"file:{tmp_path / 'a.jpg'}"}, {"type": "text", "text": "file:a.jpg?"}]
    messages = [{"role": "user", "content": content}]
    (tmp_path / "messages.json").write_text(json.dumps(messages))

    for value in (json.dumps(messages), f"@{tmp_path / 'messages.json'}"):
        assert run(api, "inference", "--messages", value, "--no-wait").returncode == 0

    first, second = (job.spec for job in api.jobs.values())
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert [each["messages"][0]["content"] for each in (first, second)] == [
        [{"type": "image", "image": str(id)}, {"type": "text", "text": "file:a.jpg?"}] for id in api.artefacts
    ]


def test_the_result_as_json_is_the_job(api: SmallApi) -> None:
    api.life = [DONE]

    ran = run(api, "noop", "--echo", "hello", "--json")

    assert json.loads(ran.stdout)["result"] == DONE["result"]
    assert (ran.returncode, ran.stderr) == (0, "")


def test_other_results_are_shown_as_names_and_values(api: SmallApi) -> None:
    api.life = [DONE]

    ran = run(api, "noop", "--echo", "hello")

    assert [line.split() for line in ran.stdout.splitlines()] == [["echo", "hello"], ["attempt", "1"]]


# --- what goes wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("inference", "--image", "absent.jpg", "--prompt", "a"), "--image: there is no file or folder absent.jpg"),
        (("inference", "--image", "", "--prompt", "a"), "--image: it names no file or folder"),
        (
            ("inference", "--image", __file__, "--prompt", "a", f"--image={__file__}"),
            "--image was given 2 times; it takes one (for several: --images)",
        ),
        (("noop", "--pool", "a", "--pool", "a"), "--pool was given 2 times; it takes one "),
        (("inference", "--image", ".", "--prompt", "a"), "is a folder, and this takes a file"),
        (("inference", "--image", "job:nonsense", "--prompt", "a"), "--image: 'job:nonsense' does not fit"),
        (
            ("inference", "--image", __file__, "--prompt", "a", "--model", "acme/signs"),
            "(give a version, such as acme/",
        ),
        (("inference", "--prompt", "a", "--preset", "describe"), "give a prompt or a preset, not both"),
        (("inference", "--messages", "{"), "--messages:1: it is not JSON"),
        (
            (
                "inference",
                "--messages",
                '[{"role": "user", "content": [{"type": "image", "image": "file:absent.jpg"}]}]',
            ),
            "--messages: there is no file or folder absent.jpg",
        ),
        (("inference", "--messages", "@absent.json"), "it cannot be read: No such file"),
        (("inference", "--messages", '[{"role": "nobody"}]'), "--messages"),
        (("inference", "--prompt", "a", "--top-p", "7"), "--top-p: 7.0 does not fit"),
        (("inference", "--preset", "paint"), "Invalid value for '--preset': 'paint' is not one of 'describe',"),
        (("prediction", "--prompt", "a"), "--dataset"),
        (("conversion", "--source", ".", "--rename", "car"), "--rename car: it has no ="),
        (("noop", "--label", "a"), "--label a: it has no ="),
        (("noop", "--priority", "1000"), "/priority"),
        (("noop", "--pool", "No Pool"), "/pool"),
        (("noop", "--max-runtime", "-1"), "/max_runtime"),
        (("noop", "--expires-at", "2036-01-01T00:00:00"), "/expires_at"),
        (("noop", "--no-wait", "--download", "out"), "--download: nothing is there to fetch"),
        (("noop", "--download", __file__), "is no folder"),
    ],
)
def test_a_bad_option_is_named_before_anything_is_sent(api: SmallApi, words: tuple[str, ...], said: str) -> None:
    reach = {"VLYARD_URL": api.url, "VLYARD_API_KEY": KEY, "COLUMNS": "300"}

    ended = CliRunner().invoke(APP, words, env=reach)

    assert ended.exit_code != 0
    assert isinstance(ended.exception, InvalidInput | SystemExit)
    assert said in f"{ended.exception} {ended.stderr}"
    assert api.asked == []


def test_flags_and_lists_are_given_as_often_as_one_likes(api: SmallApi) -> None:
    flags = ("--crash", "--no-crash", "--crash", "--no-wait", "--no-wait")

    ran = run(api, "noop", *flags, "--label", "a=b", "--label", "c=d")

    sent = submitted(api)
    assert (ran.returncode, sent["spec"]["crash"], sent["labels"]) == (0, True, {"a": "b", "c": "d"})


def test_how_a_job_ended_is_told_by_the_exit_status(api: SmallApi) -> None:
    failed = {"state": "failed", "error": {"code": "user_error", "message": "no such luck", "blame": "user"}}
    for life, status in ((DONE, 0), (failed, 3), ({"state": "cancelled"}, 4)):
        api.life = [life]
        assert run(api, "noop").returncode == status
    api.life = [{"state": "queued"}]
    assert run(api, "noop", "--timeout", "0.1").returncode == 5
    api.faults["POST /v1/jobs"] = [Fault(problem(500, "internal", "Something went wrong."))]
    assert run(api, "noop").returncode == 1


def test_control_c_says_that_the_job_goes_on_and_how_to_look_at_it(api: SmallApi) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "noop"], env=environment(api), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while len(api.asked) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)

    while process.poll() is None and time.monotonic() < deadline:  # Python can lose one that comes inside a callback
        process.send_signal(signal.SIGINT)
        time.sleep(2)
    out, err = process.communicate(timeout=30)

    (job,) = api.jobs
    assert process.returncode == 130
    assert f"job {job} goes on: `vlyard watch {job}`" in err
    assert "Traceback" not in out + err
