"""A VLyard in the test's process: what users' own tests build on, without a server and without a network."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from vlyard import Client, ConversionResult, ConversionSpec, InferenceSpec, InProcess, Job, NoopResult, NoopSpec
from vlyard.client.in_process import Files
from vlyard.errors import (
    Cancelled,
    Conflict,
    IdempotencyMismatch,
    InvalidInput,
    JobFailed,
    NotFound,
    Unavailable,
    UserError,
    WaitTimeout,
)
from vlyard.jobs.view import Changes, Entry


def echo(spec: NoopSpec, files: Files) -> NoopResult:
    files.say(f"asked to say {spec.echo!r}")
    files.progress(0.5, "half")
    return NoopResult(echo=spec.echo, attempt=1)


@pytest.fixture
def api() -> InProcess:
    return InProcess({NoopSpec: echo})


@pytest.fixture
def client(api: InProcess) -> Iterator[Client]:
    with Client(transport=api) as client:
        yield client


# --- jobs -----------------------------------------------------------------------------------------------------


def test_a_job_is_done_by_the_tests_own_handler(client: Client) -> None:
    assert client.run(NoopSpec(echo="hello")) == NoopResult(echo="hello", attempt=1)


def test_a_submission_is_answered_before_the_job_runs_and_a_wait_is_answered_after_it(client: Client) -> None:
    assert client.submit(NoopSpec()).state == "queued"
    assert client.submit(NoopSpec(), wait=1).state == "succeeded"


def test_one_result_may_do_for_every_job_of_a_kind() -> None:
    result = NoopResult(echo="always this", attempt=1)
    with Client(transport=InProcess({NoopSpec: result})) as client:
        assert [client.run(NoopSpec(echo=text)) for text in "ab"] == [result, result]


def test_a_kind_can_be_told_to_fail(api: InProcess) -> None:
    with Client(transport=InProcess({NoopSpec: InvalidInput("no such luck")})) as client:
        job = client.wait(client.submit(NoopSpec()).id)
        with pytest.raises(JobFailed, match=r"no such luck \[invalid_input\]"):
            client.result(job)
    assert (job.attempt, [attempt.outcome for attempt in job.attempts]) == (1, ["failed"])


def test_an_error_that_can_pass_is_tried_again_as_often_as_the_kind_allows() -> None:
    tries: list[int] = []

    def third_time_lucky(spec: NoopSpec, files: Files) -> NoopResult:
        tries.append(len(tries) + 1)
        if len(tries) < 3:
            raise Unavailable("the store is away")
        return NoopResult(attempt=len(tries))

    with Client(transport=InProcess({NoopSpec: third_time_lucky})) as client:
        job = client.wait(client.submit(NoopSpec()).id)
    assert [attempt.outcome for attempt in job.attempts] == ["failed", "failed", "succeeded"]
    assert client.result(job) == NoopResult(attempt=3)


def test_what_a_handler_did_not_foresee_is_the_jobs_error_and_not_the_callers() -> None:
    def careless(spec: NoopSpec, _files: Files) -> NoopResult:
        return NoopResult(attempt=1 // int(spec.seconds))

    api = InProcess({NoopSpec: careless})
    with Client(transport=api) as client, pytest.raises(JobFailed, match="ZeroDivisionError: integer division"):
        client.run(NoopSpec())


def test_a_handler_that_returns_another_kinds_result_is_named() -> None:
    wrong = InProcess({ConversionSpec: NoopResult(attempt=1)})
    with Client(transport=wrong) as client, pytest.raises(JobFailed, match=r"NoopResult, and conversion jobs bring a"):
        client.run(ConversionSpec(source=client.upload(__file__).id))


def test_a_kind_that_nothing_does_is_refused_with_what_to_write(client: Client) -> None:
    with pytest.raises(
        UserError, match=r"InProcess\(\{InferenceSpec: lambda spec, files: InferenceResult\(\.\.\.\)\}\)"
    ):
        client.submit(InferenceSpec(image=uuid4(), prompt="What is this?"))


@pytest.mark.parametrize("call", ["webhooks", "teams"])
def test_what_is_not_served_is_refused_by_name(client: Client, call: str) -> None:
    with pytest.raises(UserError, match=rf"does not serve GET /v1/{call}: `vlyard up` starts a whole one"):
        getattr(client, call)()


def pipeline(held: bool = False) -> InProcess:
    """Conversions that make a set, of which further conversions make another."""

    def convert(spec: ConversionSpec, files: Files) -> ConversionResult:
        return converted(dataset=files.add("set.zip", files[spec.source] + b"!"))

    return InProcess({ConversionSpec: convert, NoopSpec: echo}, held=held)


def conversion(source: object) -> ConversionSpec:
    return ConversionSpec.model_validate({"source": str(source)})


def test_jobs_wait_for_each_others_outputs_and_get_them(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with Client(transport=pipeline()) as client:
        first = conversion(client.upload(tmp_path / "a").id)
        entries = [
            Entry(spec=conversion("ref:two/dataset")),
            Entry(name="one", spec=first),
            Entry(name="two", spec=conversion("ref:one/dataset")),
        ]
        three, one, two = client.submit_many(entries)
        assert [job.state for job in (one, two, three)] == ["queued", "blocked", "blocked"]
        later = client.submit(conversion(f"job:{three.id}/dataset"), wait=1)
        made = client.result(later).artefacts["dataset"]
        assert client.download(made, tmp_path / "b").read_bytes() == b"a!!!!"
        states = [event.data["state"] for event in client.events(two.id)]
    assert states == ["blocked", "queued", "dispatched", "running", "succeeded"]


def test_a_job_whose_need_is_cancelled_fails_and_says_why_it_waited(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with Client(transport=pipeline(held=True)) as client:
        entries = [
            Entry(name="one", spec=conversion(client.upload(tmp_path / "a").id)),
            Entry(name="two", spec=conversion("ref:one/dataset")),
            Entry(spec=conversion("ref:two/dataset")),
        ]
        one, two, three = client.submit_many(entries)
        assert [need.job for need in client.why(three.id).needs] == [two.id]
        client.cancel(one.id)
        failed = [client.job(job.id) for job in (two, three)]
    assert [(job.state, job.error.code if job.error else "") for job in failed] == [("failed", "dependency_failed")] * 2


def test_what_does_not_exist_is_refused_as_the_api_does(client: Client) -> None:
    with pytest.raises(NotFound, match="there is no job"):
        client.job(uuid4())
    with pytest.raises(InvalidInput) as caught:
        client.submit(NoopSpec(), pool="night")
    assert [complaint.where for complaint in caught.value.complaints] == ["/pool"]


def test_held_jobs_wait_until_they_are_let_go(api: InProcess, client: Client) -> None:
    api.hold()
    first, second = client.submit(NoopSpec(echo="1")), client.submit(NoopSpec(echo="2"), priority=5)
    with pytest.raises(WaitTimeout):
        client.wait(first.id, timeout=0.05)
    assert client.why(first.id).position == 2
    api.go()
    ended = sorted((client.job(id) for id in (first.id, second.id)), key=lambda job: job.finished_at or job.created_at)
    assert [job.id for job in ended] == [second.id, first.id]


def test_a_held_job_can_be_cancelled_and_an_ended_one_cannot(api: InProcess, client: Client) -> None:
    api.hold()
    job = client.submit(NoopSpec())
    assert client.cancel(job.id).state == "cancelled"
    api.go()
    with pytest.raises(Cancelled):
        client.result(client.wait(job.id))
    with pytest.raises(Conflict, match="ended already"):
        client.cancel(job.id)


def test_a_wait_in_another_thread_ends_when_the_job_does(api: InProcess, client: Client) -> None:
    api.hold()
    job, ended = client.submit(NoopSpec()), []
    thread = threading.Thread(target=lambda: ended.append(client.wait(job.id, timeout=30).state))
    thread.start()
    api.go()
    thread.join()
    assert ended == ["succeeded"]


def test_the_same_key_is_the_same_job_and_with_another_body_refused(api: InProcess, client: Client) -> None:
    first, again = (client.submit(NoopSpec(), idempotency_key="once") for _ in range(2))
    assert (first.id, len(api.jobs)) == (again.id, 1)
    assert again.state == "succeeded"
    with pytest.raises(IdempotencyMismatch):
        client.submit(NoopSpec(echo="other"), idempotency_key="once")


def test_a_job_that_is_run_in_one_call_keeps_the_limits_that_a_submitted_one_has(
    api: InProcess, client: Client
) -> None:
    client.run(NoopSpec(), expires_in=60, max_runtime=5)
    [job] = client.jobs()
    assert (job.max_runtime, job.expires_at - job.created_at) == (5, timedelta(seconds=60))  # type: ignore[operator]


def test_lists_have_pages_and_filters(api: InProcess, client: Client) -> None:
    submitted = [client.submit(NoopSpec(), labels={"run": str(number % 2)}) for number in range(130)]
    api.hold()
    waiting = client.submit(NoopSpec())
    assert [job.id for job in client.jobs()] == [waiting.id, *(job.id for job in reversed(submitted))]
    assert [job.id for job in client.jobs(state="queued")] == [waiting.id]
    assert len(list(client.jobs(labels={"run": "1"}))) == 65
    assert list(client.jobs(pool="night")) == []


def test_a_clone_differs_in_what_was_changed(client: Client) -> None:
    job = client.submit(NoopSpec(echo="a"), labels={"run": "1"})
    clone = client.wait(client.clone(job.id, Changes(spec={"echo": "b"}, priority=3)).id)
    assert client.result(clone) == NoopResult(echo="b", attempt=1)
    assert (clone.cloned_from, clone.priority, clone.labels) == (job.id, 3, {"run": "1"})
    with pytest.raises(InvalidInput, match="/spec/ecko"):
        client.clone(job.id, Changes(spec={"ecko": "b"}))


def test_events_and_log_tell_what_happened(client: Client) -> None:
    job = client.submit(NoopSpec(echo="hello"))
    happened = [(event.seq, event.type, event.data.get("state")) for event in client.events(job.id)]
    assert happened == [
        (1, "state", "queued"),
        (2, "state", "dispatched"),
        (3, "state", "running"),
        (4, "progress", None),
        (5, "state", "succeeded"),
    ]
    assert [event.seq for event in client.events(job.id, after=3)] == [4, 5]
    assert list(client.log(job.id)) == ["asked to say 'hello'\n"]
    assert list(client.log(job.id, follow=True)) == ["asked to say 'hello'\n"]


def test_what_ends_a_line_for_unicode_alone_travels_in_events_logs_and_errors() -> None:
    odd = "a\x85b\u2028c\u2029d"

    def speak(spec: NoopSpec, files: Files) -> NoopResult:
        files.say(odd)
        files.progress(0.5, odd)
        raise InvalidInput(odd)

    with Client(transport=InProcess({NoopSpec: speak})) as client:
        job = client.submit(NoopSpec())
        *_, progress, end = client.events(job.id)

        assert (progress.data["text"], end.data["error"]["message"]) == (odd, odd)
        assert "".join(client.log(job.id, follow=True)) == f"{odd}\n"


def test_progress_is_told_to_who_waits(api: InProcess, client: Client) -> None:
    seen: list[Job] = []
    api.hold()
    job = client.submit(NoopSpec())

    def look(now: Job) -> None:
        seen.append(now)
        api.go()

    client.wait(job.id, on_progress=look)
    assert [job.state for job in seen] == ["queued", "succeeded"]


# --- files ----------------------------------------------------------------------------------------------------


def test_a_handler_reads_uploads_and_what_it_stores_can_be_fetched(tmp_path: Path) -> None:
    def upper(spec: ConversionSpec, files: Files) -> ConversionResult:
        return converted(loud=files.add("loud.txt", files[spec.source].upper(), "text/plain"))

    (tmp_path / "quiet.txt").write_text("hello")
    with Client(transport=InProcess({ConversionSpec: upper})) as client:
        result = client.run(ConversionSpec(source=client.upload(tmp_path / "quiet.txt").id))
        target = client.download(result.artefacts["loud"], tmp_path)
    assert (target.name, target.read_text()) == ("loud.txt", "HELLO")


def test_a_handler_reads_no_more_than_its_inputs_and_names_no_more_than_it_made(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")

    def boastful(_spec: ConversionSpec, _files: Files) -> ConversionResult:
        return converted(stolen=uuid4())

    def curious(_spec: ConversionSpec, files: Files) -> ConversionResult:
        assert not files[uuid4()]
        return converted()

    for handler, said in ((boastful, "were never stored: stolen"), (curious, "names no artefact")):
        with Client(transport=InProcess({ConversionSpec: handler})) as client, pytest.raises(JobFailed, match=said):
            client.run(ConversionSpec(source=client.upload(tmp_path / "a.txt").id))


def converted(**made: UUID) -> ConversionResult:
    """What a conversion of nothing brings."""
    numbers = {name: 0 for name, field in ConversionResult.model_fields.items() if field.annotation is int}
    facts = {"format": "yolo", "layout": "darknet", "classes": (), "artefacts": made}
    return ConversionResult.model_validate({**numbers, **facts})


def test_a_folder_goes_and_comes_back_file_by_file(client: Client, tmp_path: Path) -> None:
    names = ("a.txt", "deep/b.txt", "deep/same.txt")
    for name, text in zip(names, ("a", "b", "b"), strict=True):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text(text)
    tree = client.upload_tree(tmp_path / "set")
    folder = client.download(tree.id, tmp_path / "back")
    assert [file.path for file in client.files(tree.id)] == list(names)
    assert {name: (folder / name).read_text() for name in names} == dict(zip(names, "abb", strict=True))
    assert client.download(tree.id, tmp_path / "all.zip", as_zip=True).stat().st_size > 100


def test_an_artefact_that_was_never_uploaded_is_no_input(client: Client) -> None:
    wrong = InProcess({ConversionSpec: InvalidInput("never")})
    with Client(transport=wrong) as other, pytest.raises(InvalidInput) as caught:
        other.submit(ConversionSpec(source=uuid4()))
    assert [complaint.where for complaint in caught.value.complaints] == ["/spec/source"]


def test_it_needs_neither_server_nor_network_nor_settings() -> None:
    program = """
import os, sys
os.environ.pop("VLYARD_URL", None); os.environ.pop("VLYARD_API_KEY", None)
sys.addaudithook(lambda event, args: event.startswith("socket.") and print(event))
import vlyard
api = vlyard.InProcess({vlyard.NoopSpec: vlyard.NoopResult(echo="hello", attempt=1)})
with vlyard.Client(transport=api) as client: print(client.run(vlyard.NoopSpec()).echo, client.me().role)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("hello admin\n", "")


def test_the_example_of_the_documentation_works(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "testing-your-code.md"
    [example] = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)  # it is ours
    names["test_my_code"](tmp_path)
