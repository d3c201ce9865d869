"""The client against a real HTTP server: what it sends, what it makes of answers, and how it goes on after faults."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from inspect import signature
from typing import get_overloads, get_type_hints
from uuid import uuid4

import httpx
import pytest

from tests.language.small_api import KEY, Fault, Reply, SmallApi, problem, serving
from vlyard import Client, Job, NoopResult, NoopSpec, Result, Spec
from vlyard.client.job_calls import How
from vlyard.client.patience import retry_after
from vlyard.errors import (
    Cancelled,
    Complaint,
    Conflict,
    JobFailed,
    Unavailable,
    VLyardError,
    WaitTimeout,
)
from vlyard.jobs.kinds import KINDS

BUSY = Fault(Reply(503, headers={"Retry-After": "1"}))
DROPPED = Fault(cut_after=10)  # the request was carried out, and its answer is lost half way
DONE = {"state": "succeeded", "attempt": 1, "result": {"echo": "hello", "attempt": 1}}


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serving(SmallApi()) as api:
        yield api


@pytest.fixture
def client(api: SmallApi) -> Iterator[Client]:
    with Client(api.url, KEY, timeout=8) as client:
        yield client


def keys(api: SmallApi, path: str = "/v1/jobs") -> list[str]:
    return [asked.headers["Idempotency-Key"] for asked in api.asked if (asked.method, asked.path) == ("POST", path)]


# --- jobs -----------------------------------------------------------------------------------------------------


def test_a_submission_carries_the_spec_the_pool_the_priority_and_the_key_and_gives_the_job(
    api: SmallApi, client: Client
) -> None:
    job = client.submit(NoopSpec(echo="hello"), pool="night", priority=7, wait=1.5)

    sent = api.asked[0]
    assert httpx.Response(200, content=sent.body).json() == {
        "spec": {"kind": "noop", "seconds": 0.0, "fail": "", "fail_transiently": 0, "crash": False, "echo": "hello"},
        "pool": "night",
        "priority": 7,
        "labels": {},
        "expires_at": None,
        "expires_in": None,
        "max_runtime": None,
    }
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert sent.query == {"wait": "1.5"}
    assert (job.id in api.jobs, job.pool, job.priority) == (True, "night", 7)


def test_a_run_gives_the_result_as_its_kinds_own_class_and_tells_each_change_once(
    api: SmallApi, client: Client
) -> None:
    half = {"state": "running", "attempt": 1, "progress": {"fraction": 0.5, "text": "half"}}
    api.life = [{"state": "queued"}, half, half, DONE]
    seen: list[Job] = []

    result = client.run(NoopSpec(echo="hello"), on_progress=seen.append)

    assert result == NoopResult(echo="hello", attempt=1)
    assert [job.state for job in seen] == ["queued", "running", "succeeded"]


def test_type_checkers_know_which_result_a_specification_brings() -> None:
    hints = [get_type_hints(each) for each in get_overloads(Client.run)]
    known = {hint["spec"]: hint["return"] for hint in hints}

    assert known == {Spec: Result} | {kind.spec: kind.result for kind in KINDS.values()}
    assert How.__optional_keys__ == set(signature(Client.run).parameters) - {"self", "spec"}


def test_a_result_with_a_field_of_a_younger_server_is_read_without_it(api: SmallApi, client: Client) -> None:
    job = api.add_job(state="succeeded", result={"echo": "hello", "attempt": 1, "invented_later": 3})

    assert client.result(client.job(job.id)) == NoopResult(echo="hello", attempt=1)


def test_the_result_of_a_failed_job_is_its_error_with_every_complaint(api: SmallApi, client: Client) -> None:
    said = (
        Complaint("labels/7.txt:3", "class 9 is not in data.yaml", "add its name"),
        Complaint("labels/8.txt:1", "five numbers expected"),
    )
    error = {
        "code": "invalid_input",
        "message": "Two lines are faulty.",
        "blame": "user",
        "complaints": [asdict(complaint) for complaint in said],
    }
    job = api.add_job(state="failed", attempt=1, error=error)

    with pytest.raises(JobFailed, match=r"Two lines are faulty\. \[invalid_input\]") as caught:
        client.result(client.wait(job.id))

    assert caught.value.complaints == said


def test_a_cancelled_job_has_no_result_and_cannot_be_cancelled_again(api: SmallApi, client: Client) -> None:
    job = api.add_job()

    cancelled = client.cancel(job.id)

    assert cancelled.state == "cancelled"
    with pytest.raises(Cancelled):
        client.result(cancelled)
    with pytest.raises(Conflict, match="has ended"):
        client.cancel(job.id)


def test_a_running_job_has_no_result_yet(api: SmallApi, client: Client) -> None:
    job = api.add_job(state="running")

    with pytest.raises(Conflict, match="wait for its end"):
        client.result(client.job(job.id))


def test_waiting_ends_with_the_callers_timeout_and_the_job_goes_on(api: SmallApi, client: Client) -> None:
    job = api.add_job()

    with pytest.raises(WaitTimeout, match=r"still queued after 0\.3 s"):
        client.wait(job.id, timeout=0.3)

    assert api.jobs[job.id].state == "queued"


def test_all_jobs_of_all_pages_are_listed_and_the_filter_goes_with_every_page(api: SmallApi, client: Client) -> None:
    wanted = [api.add_job(state="failed").id for _ in range(5)]
    api.add_job(state="running")

    listed = [job.id for job in client.jobs(state="failed")]

    assert listed == wanted
    assert [asked.query.get("state") for asked in api.asked] == ["failed"] * 3


# --- trying again ---------------------------------------------------------------------------------------------


def test_a_submission_whose_answer_was_lost_is_tried_again_with_the_same_key_and_is_one_job(
    api: SmallApi, client: Client
) -> None:
    api.faults["POST /v1/jobs"] = [DROPPED, DROPPED]

    job = client.submit(NoopSpec())

    assert len(keys(api)) == 3
    assert len(set(keys(api))) == 1
    assert list(api.jobs) == [job.id]


def test_two_submissions_have_two_keys_and_a_key_of_the_callers_own_is_kept(api: SmallApi, client: Client) -> None:
    client.submit(NoopSpec())
    client.submit(NoopSpec())
    client.submit(NoopSpec(), idempotency_key="mine")

    assert len(set(keys(api))) == 3
    assert keys(api)[2] == "mine"


def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(api: SmallApi, client: Client) -> None:
    api.faults["POST /v1/jobs"] = [BUSY]
    before = time.monotonic()

    job = client.submit(NoopSpec())

    assert time.monotonic() - before >= 1.0
    assert list(api.jobs) == [job.id]
    assert len(set(keys(api))) == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_passing_status_is_tried_again(api: SmallApi, client: Client, status: int) -> None:
    job = api.add_job()
    api.faults["GET /v1/jobs"] = [Fault(Reply(status))]

    assert client.job(job.id).id == job.id


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500])
def test_a_lasting_status_is_not_tried_again(api: SmallApi, client: Client, status: int) -> None:
    api.faults["POST /v1/jobs"] = [Fault(Reply(status))]

    with pytest.raises(VLyardError, match=str(status)):
        client.submit(NoopSpec())

    assert len(api.asked) == 1


def test_a_server_that_asks_for_more_time_than_there_is_is_not_waited_for(api: SmallApi) -> None:
    busy = problem(503, "unavailable", "The database does not answer.", after=60)
    api.faults["GET /v1/jobs"] = [Fault(busy)]
    before = time.monotonic()

    with Client(api.url, KEY, timeout=5) as client, pytest.raises(Unavailable, match="The database does not answer"):
        client.job(uuid4())

    assert time.monotonic() - before < 6


def test_nobody_at_the_url_is_unavailable_by_its_name_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    before = time.monotonic()

    with Client(url, KEY, timeout=1) as client, pytest.raises(Unavailable, match=f"{url}/v1/jobs got no answer"):
        next(client.jobs())

    assert time.monotonic() - before < 6


def test_a_server_that_never_answers_is_given_up_by_its_name_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        before = time.monotonic()
        with Client(url, KEY, timeout=0.5) as client, pytest.raises(Unavailable, match="timed out"):
            client.job(uuid4())
        assert time.monotonic() - before < 6


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7, 7),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 1e9, 1e10),
        ("Thu, 01 Jan 2015 00:00:00 GMT", 0, 0),
        ("soon", 0, 0),
        ("", 0, 0),
    ],
)
def test_retry_after_is_read_as_seconds_and_as_a_date(header: str, least: float, most: float) -> None:
    assert least <= retry_after(header) <= most


# --- the surface ----------------------------------------------------------------------------------------------


def test_a_client_reads_its_url_and_key_from_the_environment(api: SmallApi) -> None:
    api.add_job(kind="noop")
    program = "import vlyard\nwith vlyard.Client() as client: print([job.kind for job in client.jobs()])"
    environment = os.environ | {"VLYARD_URL": api.url + "/", "VLYARD_API_KEY": KEY, "HTTP_PROXY": "http://127.0.0.1:9"}

    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)

    assert (ran.stdout, ran.stderr) == ("['noop']\n", "")


def test_a_base_url_may_have_a_path() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, json={"data": []})

    with Client("https://vlyard.test/team/", KEY, transport=httpx.MockTransport(answer)) as client:
        assert list(client.jobs()) == []
    assert asked == ["https://vlyard.test/team/v1/jobs"]


def test_one_client_serves_many_threads(api: SmallApi, client: Client) -> None:
    threads = [threading.Thread(target=client.submit, args=(NoopSpec(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(api.jobs) == 8
    assert len(set(keys(api))) == 8


def test_importing_the_language_loads_no_http_client() -> None:
    program = "import sys, vlyard.errors, vlyard.jobs.view; print('httpx' in sys.modules); vlyard.Client"

    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (ran.stdout, ran.stderr) == ("False\n", "")


def test_everything_that_is_promised_is_there() -> None:
    import vlyard

    for name in vlyard.__all__:
        assert getattr(vlyard, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        _ = vlyard.Klient
