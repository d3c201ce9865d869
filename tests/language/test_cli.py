"""The command line as a user runs it: a process of its own, its output, its exit status."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from tests.language.small_api import KEY, Fault, SmallApi, problem, serving
from vlyard.cli.app import build
from vlyard.jobs.kinds import KINDS

Ran = subprocess.CompletedProcess[str]
PROGRAM = (sys.executable, "-c", "from vlyard.cli.entry import main; main()")
LOOKING = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "200"}  # as if standard error were a terminal
DONE = {"state": "succeeded", "attempt": 1, "result": {"echo": "hello", "attempt": 1}}


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serving(SmallApi()) as api:
        yield api


def environment(api: SmallApi | None, **more: str) -> dict[str, str]:
    reach = {"VLYARD_URL": api.url, "VLYARD_API_KEY": KEY} if api else {}
    return {name: value for name, value in os.environ.items() if not name.startswith("VLYARD_")} | reach | more


def run(api: SmallApi | None, *words: str | Path, stdin: str = "", **more: str) -> Ran:
    return subprocess.run(
        [*PROGRAM, *map(str, words)],
        env=environment(api, **more),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


# --- submitting and following ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("job.json", '{"kind": "noop", "echo": "hello"}'),
        ("job.yaml", "kind: noop\necho: hello\n"),
        ("job", "{kind: noop, echo: hello}"),
    ],
)
def test_a_json_or_yaml_file_is_submitted(api: SmallApi, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)

    ran = run(api, "submit", tmp_path / name, "--pool", "night", "--priority", "3", "--json")

    shown = json.loads(ran.stdout)
    (job,) = api.jobs.values()
    assert (ran.returncode, ran.stderr, shown["id"]) == (0, "", str(job.id))
    assert (shown["spec"]["echo"], job.pool, job.priority) == ("hello", "night", 3)


def test_a_file_beside_the_specification_is_uploaded_where_an_artefact_is_meant(api: SmallApi, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"picture")
    content = [{"type": "image", "image": "file:photo.jpg"}, {"type": "text", "text": "file:photo.jpg is a text here"}]
    spec = {"kind": "inference", "messages": [{"role": "user", "content": content}], "adapter": "file:./photo.jpg"}
    due = "2036-01-01T00:00:00Z"
    (tmp_path / "job.yaml").write_text(json.dumps({"jobs": [{"spec": spec, "expires_at": due}]}))

    ran = run(api, "submit", tmp_path / "job.yaml", "--json")

    [artefact] = api.artefacts.values()
    assert (ran.returncode, api.objects[f"/s3/{artefact.id}"]) == (0, b"picture")
    sent = json.loads(api.asked[-1].body)
    picture, text = sent["spec"]["messages"][0]["content"]
    assert picture["image"] == sent["spec"]["adapter"] == str(artefact.id)
    assert (text["text"], sent["expires_at"]) == ("file:photo.jpg is a text here", due)


def test_a_specification_comes_from_standard_input_and_is_followed_to_its_result(api: SmallApi) -> None:
    half = {"state": "running", "attempt": 1, "progress": {"fraction": 0.5, "text": "half"}}
    api.life = [{"state": "queued"}, half, DONE]

    ran = run(api, "submit", "-", "--wait", "--json", stdin='{"kind": "noop"}')

    assert ran.returncode == 0
    assert json.loads(ran.stdout)["result"] == {"echo": "hello", "attempt": 1}


def test_who_asks_for_json_on_a_terminal_gets_nothing_drawn_beside_it(api: SmallApi) -> None:
    api.life = [{"state": "queued"}, DONE]
    job = api.add_job()

    drawn = run(api, "wait", str(job.id), **LOOKING)
    asked = run(api, "wait", str(api.add_job().id), "--json", **LOOKING)

    assert "\x1b[?25l" in drawn.stderr  # the bar, which hides the cursor
    assert (asked.returncode, asked.stderr, json.loads(asked.stdout)["state"]) == (0, "", "succeeded")


def test_a_job_that_failed_fails_the_command_that_waited_for_it(api: SmallApi) -> None:
    complaint = {"where": "a.txt:3", "what": "no box"}
    error = {"code": "invalid_input", "message": "It is faulty.", "blame": "user", "complaints": [complaint]}
    job = api.add_job(state="failed", error=error)

    ran = run(api, "wait", str(job.id), "--json")

    assert ran.returncode == 3
    assert json.loads(ran.stdout)["state"] == "failed"
    assert ran.stderr.splitlines()[-2:] == [
        f"error: job {job.id} failed: It is faulty. [invalid_input]",
        "  a.txt:3: no box",
    ]


def test_waiting_no_longer_than_asked_says_that_the_job_goes_on(api: SmallApi) -> None:
    ran = run(api, "wait", str(api.add_job().id), "--timeout", "0.2")

    assert ran.returncode == 5
    assert "is still queued after 0.2 s; it goes on" in ran.stderr


def test_control_c_ends_a_command_with_130_and_no_traceback(api: SmallApi) -> None:
    job = api.add_job()
    process = subprocess.Popen(
        [*PROGRAM, "wait", str(job.id)], env=environment(api), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while len(api.asked) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)

    while process.poll() is None and time.monotonic() < deadline:  # Python can lose one that comes inside a callback
        process.send_signal(signal.SIGINT)
        time.sleep(2)
    out, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "Traceback" not in out + err


# --- looking --------------------------------------------------------------------------------------------------


def test_jobs_are_listed_in_a_table_with_whole_ids_and_text_that_is_no_markup(api: SmallApi) -> None:
    job = api.add_job(state="running", progress={"fraction": 0.25, "text": "[red]page 1"})
    api.add_job(state="failed")

    ran = run(api, "jobs", "--state", "running")

    head, row = ran.stdout.splitlines()
    assert head.split() == ["ID", "KIND", "STATE", "POOL", "PROGRESS", "CREATED"]
    assert row.startswith(f"{job.id}  noop  running  default  25% [red]page 1")


def test_jobs_as_json_are_one_a_line_and_no_more_than_the_limit(api: SmallApi) -> None:
    wanted = [str(api.add_job().id) for _ in range(5)]

    ran = run(api, "jobs", "--json", "--limit", "3")

    assert [json.loads(line)["id"] for line in ran.stdout.splitlines()] == wanted[:3]


def test_a_job_is_shown_with_its_attempts_and_its_error(api: SmallApi) -> None:
    error = {"code": "out_of_memory", "message": "Memory ran out.", "blame": "oom"}
    attempt = {
        "number": 1,
        "worker": "gpu-1",
        "started_at": "2026-01-01T00:00:00Z",
        "outcome": "failed",
        "error": error,
    }
    job = api.add_job(state="failed", attempt=1, attempts=[attempt], error=error)

    ran = run(api, "job", str(job.id))

    assert ran.returncode == 0
    assert str(job.id) in ran.stdout
    assert "failed on gpu-1: Memory ran out." in ran.stdout
    assert "Memory ran out. [out_of_memory]" in ran.stdout


def test_a_job_is_cancelled_once(api: SmallApi) -> None:
    job = api.add_job()

    first, second = run(api, "cancel", str(job.id)), run(api, "cancel", str(job.id))

    assert (first.returncode, api.jobs[job.id].state) == (0, "cancelled")
    assert (second.returncode, second.stderr) == (2, f"error: Job {job.id} has ended.\n")


def test_a_file_goes_up_and_comes_down_again(api: SmallApi, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("content")

    up = run(api, "upload", tmp_path / "a.txt", "--name", "b.txt", "--json")
    down = run(api, "download", json.loads(up.stdout)["id"], tmp_path)

    assert (up.returncode, down.returncode) == (0, 0)
    assert down.stdout.strip() == str(tmp_path / "b.txt")
    assert (tmp_path / "b.txt").read_text() == "content"


def test_a_file_on_its_way_has_a_bar_where_somebody_looks_at_it(api: SmallApi, tmp_path: Path) -> None:
    (tmp_path / "street.zip").write_bytes(b"labels")
    ways = (("upload", tmp_path / "street.zip"), ("download", api.add_artefact("street.zip", b"labels").id, tmp_path))

    for words in ways:
        seen, json_alone, piped = (
            run(api, *map(str, words), *more, **looking)
            for more, looking in (((), LOOKING), (("--json",), LOOKING), ((), {}))
        )
        assert [ran.returncode for ran in (seen, json_alone, piped)] == [0, 0, 0]
        assert "street.zip" in seen.stderr
        assert "6/6 bytes" in seen.stderr
        assert (json_alone.stderr, piped.stderr) == ("", "")


def test_a_path_with_a_slash_is_a_folder_which_is_made(api: SmallApi, tmp_path: Path) -> None:
    id = api.add_artefact("street.zip", b"labels").id

    ran = run(api, "download", str(id), f"{tmp_path}/new/street/", "--json")
    in_the_way = run(api, "download", str(id), f"{tmp_path}/new/street/street.zip/")

    assert json.loads(ran.stdout) == {"path": str(tmp_path / "new" / "street" / "street.zip")}
    assert (tmp_path / "new" / "street" / "street.zip").read_bytes() == b"labels"
    assert (in_the_way.returncode, in_the_way.stderr.splitlines()[0]) == (2, "error: the folder cannot be made")


def test_an_output_of_a_job_is_fetched_by_its_name(api: SmallApi, tmp_path: Path) -> None:
    made = {"artefacts": {"dataset": str(api.add_artefact("street.zip", b"labels").id)}}
    job = api.add_job(state="succeeded", result={"echo": "", "attempt": 1, **made})
    reach = {"VLYARD_URL": api.url, "VLYARD_API_KEY": KEY}

    got, absent = (
        CliRunner().invoke(build(["download"]), ["download", f"job:{job.id}/{name}", str(tmp_path)], env=reach)
        for name in ("dataset", "report")
    )

    assert (got.exit_code, (tmp_path / "street.zip").read_bytes()) == (0, b"labels")
    assert str(absent.exception) == f"job {job.id} has no output 'report': its outputs are dataset"


# --- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("job.json", '{"kind": "noop",\n oops}', "job.json:2: "),
        ("job.yaml", "kind: noop\necho: [", "job.yaml:"),
        ("job.yaml", "kind: dancing", f"/kind: there is no kind 'dancing' (kinds are {', '.join(KINDS)})"),
        (
            "job.yaml",
            "kind: noop\nseconds: -1\nsong: la",
            "/song: there is no such field (remove it, or correct its name)",
        ),
        ("job.yaml", "just words", "is no job"),
        (
            "job.yaml",
            "{kind: conversion, source: street.zip}",
            "/source: this is no artefact's id, and no output of a job, such as job:<job id>/<output> "
            "(for a file or folder of this machine write file:PATH)",
        ),
    ],
)
def test_a_faulty_specification_is_refused_by_line_or_field_before_it_is_sent(
    api: SmallApi, tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)

    ran = run(api, "submit", tmp_path / name)

    assert ran.returncode == 2
    assert ran.stderr.startswith(f"error: {tmp_path / name} is ")
    assert said in ran.stderr
    assert api.asked == []


def test_an_error_of_the_api_is_one_line_and_its_complaints_and_the_users_fault_is_2(api: SmallApi) -> None:
    entry = {"pointer": "/spec/echo", "detail": "is too loud", "fix": "whisper"}
    api.faults["POST /v1/jobs"] = [Fault(problem(422, "invalid_input", "The job is not valid.", errors=[entry]))]

    ran = run(api, "submit", "-", stdin="kind: noop")

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "error: The job is not valid.\n  /spec/echo: is too loud (whisper)\n"


def test_an_error_of_the_server_is_1_and_names_the_request(api: SmallApi) -> None:
    api.faults["GET /v1/jobs"] = [Fault(problem(500, "internal", "Something went wrong.", request_id="r-17"))]

    ran = run(api, "jobs")

    assert (ran.returncode, ran.stderr) == (1, "error: Something went wrong.\n  request r-17\n")


def test_a_missing_key_a_missing_file_and_an_id_that_is_none_are_the_users_fault(api: SmallApi, tmp_path: Path) -> None:
    for words, said in (
        (("jobs",), "VLYARD_API_KEY"),
        (("submit", tmp_path / "absent.yaml"), "absent.yaml cannot be read: No such file"),
        (("job", "17"), "'17' is not an id: ids look like"),
        (("download", "job:17/dataset"), "'job:17/dataset' names no output: write job:<job id>/<output>"),
        (("submit", tmp_path), "cannot be read: Is a directory (name a file of JSON or YAML)"),
    ):
        ran = run(None, *words)
        assert (ran.returncode, said in ran.stderr, "Traceback" in ran.stderr) == (2, True, False)


@pytest.mark.parametrize("words", [("jobs", "--json"), ("jobs",), ("wait",)])
def test_a_reader_that_goes_away_ends_a_command_without_a_word(api: SmallApi, words: tuple[str, ...]) -> None:
    jobs = [api.add_job(state="succeeded", result={"echo": "x" * 100_000, "attempt": 1}) for _ in range(20)]
    line = shlex.join([*PROGRAM, *words, *([str(jobs[0].id)] if words == ("wait",) else [])])

    ran = subprocess.run(
        ["bash", "-c", f"{line} | head -c 1 > /dev/null"],
        env=environment(api),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (
        ran.returncode,
        ran.stderr.replace(f"to repeat it: vlyard job {jobs[0].id} --repeat cli|yaml|python\n", ""),
    ) == (0, "")


def test_a_wrong_key_and_a_server_that_is_away_are_told_in_words(api: SmallApi) -> None:
    wrong = run(api, "jobs", VLYARD_API_KEY="vly_wrong")
    nonsense = run(api, "jobs", VLYARD_URL="nonsense")

    assert (wrong.returncode, *wrong.stderr.splitlines()) == (
        2,
        "error: The request carries no valid API key.",
        "  put a key into VLYARD_API_KEY; administrators make one with: vlyard keys create TEAM",
    )
    assert (nonsense.returncode, "Traceback" in nonsense.stderr) == (2, False)


@pytest.mark.parametrize(
    ("stdin", "said"),
    [("[" * 100_000, "nested too deeply"), ("kind: noop\n\ttab: 1", "neither JSON nor YAML"), ("", "is no job")],
)
def test_what_is_no_specification_at_all_is_refused_in_a_line(api: SmallApi, stdin: str, said: str) -> None:
    ran = run(api, "submit", "-", stdin=stdin)

    assert (ran.returncode, api.asked) == (2, [])
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_outputs_that_cannot_be_written_are_told_in_a_line(api: SmallApi, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    api.life = [DONE]

    ran = run(api, "noop", "--download", tmp_path / "file" / "out")

    assert (ran.returncode, ran.stderr.splitlines()[-1]) == (2, f"error: {tmp_path / 'file' / 'out'}: Not a directory")


def test_an_unknown_job_is_not_found(api: SmallApi) -> None:
    ran = run(api, "job", str(uuid4()))

    said, advice = ran.stderr.splitlines()
    assert (ran.returncode, said.startswith("error: There is no job")) == (2, True)
    assert advice == "  a key sees what its own team has: look at the id, and at VLYARD_API_KEY"
