"""What the client makes of answers that are errors, of failures below HTTP, and of what cannot be sent at all."""

import logging
from collections.abc import Callable, Iterator
from uuid import uuid4

import httpx
import pytest

from tests.language.small_api import KEY, Fault, Reply, SmallApi, problem, serving
from vlyard import Client, InProcess, NoopResult, NoopSpec
from vlyard.client.problems import BY_CODE, error_of
from vlyard.errors import (
    Complaint,
    IdempotencyMismatch,
    InvalidInput,
    NotFound,
    Unauthenticated,
    Unavailable,
    UserError,
    VLyardError,
)

WHERE = "is VLyard running there? base_url or VLYARD_URL says where"
DROPPED = Fault(cut_after=10)  # the request was carried out, and its answer is lost half way


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serving(SmallApi()) as api:
        yield api


@pytest.fixture
def client(api: SmallApi) -> Iterator[Client]:
    with Client(api.url, KEY, timeout=8) as client:
        yield client


def test_a_problem_document_becomes_the_error_of_its_code_with_every_complaint(api: SmallApi, client: Client) -> None:
    entry = {"pointer": "/spec/prompt", "detail": "is empty", "fix": "ask something"}
    api.faults["POST /v1/jobs"] = [Fault(problem(422, "invalid_input", "The job is not valid.", errors=[entry]))]

    with pytest.raises(InvalidInput) as caught:
        client.submit(NoopSpec())

    assert caught.value.message == "The job is not valid."
    assert caught.value.complaints == (Complaint("/spec/prompt", "is empty", "ask something"),)


def test_every_code_of_the_error_tree_comes_back_as_its_own_class() -> None:
    request = httpx.Request("GET", "http://vlyard.test/")
    for code, kind in BY_CODE.items():
        said = problem(422, code, "so it is")
        reply = httpx.Response(said.status, headers=dict(said.headers), content=said.body, request=request)
        assert type(error_of(reply)) is kind
    assert BY_CODE["idempotency_mismatch"] is IdempotencyMismatch


@pytest.mark.parametrize(
    ("status", "kind"), [(418, UserError), (500, VLyardError), (501, VLyardError), (502, Unavailable)]
)
def test_a_reply_that_is_no_problem_document_is_judged_by_its_status(status: int, kind: type[VLyardError]) -> None:
    request = httpx.Request("GET", "http://vlyard.test/v1/jobs?secret=1")
    page = httpx.Response(status, html="<h1>nginx</h1>", request=request)
    unknown = httpx.Response(status, json={"code": "invented_later", "detail": "so it is"}, request=request)

    assert type(error_of(page)) is kind
    assert str(error_of(page)).startswith(f"GET http://vlyard.test/v1/jobs answered {status}")
    assert type(error_of(unknown)) is kind
    assert str(error_of(unknown)) == "so it is"


def test_an_error_of_the_server_names_its_request_for_whoever_reads_the_log(api: SmallApi, client: Client) -> None:
    api.faults["GET /v1/jobs"] = [Fault(problem(500, "internal", "Something went wrong.", request_id="r-17"))]

    with pytest.raises(VLyardError) as caught:
        client.job(uuid4())

    assert caught.value.__notes__ == ["request r-17"]


def test_a_wrong_key_and_a_job_that_is_not_there_are_errors_of_their_own(api: SmallApi, client: Client) -> None:
    with Client(api.url, "vly_wrong") as stranger, pytest.raises(Unauthenticated):
        stranger.job(uuid4())
    with pytest.raises(NotFound):
        client.job(uuid4())


def test_a_server_that_is_no_vlyard_is_told_apart(api: SmallApi, client: Client) -> None:
    api.faults["GET /v1/jobs"] = [Fault(Reply(200, b"<h1>It works!</h1>"))]

    with pytest.raises(VLyardError, match=r"/v1/jobs/.* did not answer as VLyard's API does: check the base URL"):
        client.job(uuid4())

    api.faults["GET /v1/jobs"] = [Fault(Reply(404, b"<h1>There is no such page</h1>"))]
    with pytest.raises(UserError) as caught:
        client.job(uuid4())
    assert caught.value.__notes__ == [f"VLyard's API does not answer so: {WHERE}"]


def test_a_server_that_is_away_is_told_once_while_it_is_asked_again_and_what_to_look_at(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Client("http://127.0.0.1:1", KEY, timeout=1.2) as client, pytest.raises(Unavailable) as caught:
        client.me()

    assert caught.value.__notes__ == [WHERE]
    [told] = [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]
    assert told == f"{caught.value.message}; trying again for up to 1 s"


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("", KEY, "VLYARD_URL"),
        ("vlyard.example.org", KEY, "has to begin with http"),
        ("ftp://vlyard.example.org", KEY, "has to begin with http"),
        ("http://vlyard.test:port", KEY, "is not a URL"),
        ("http://vlyard.test", "", "VLYARD_API_KEY"),
        ("http://vlyard.test", "a\nb", "copy it again"),
    ],
)
def test_a_client_without_a_usable_url_or_key_is_refused_at_once(url: str, key: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Client(url, key)


def test_an_id_that_is_none_never_becomes_a_path(api: SmallApi, client: Client) -> None:
    with pytest.raises(InvalidInput, match="is not an id"):
        client.job("../artefacts")

    assert api.asked == []


def test_a_submission_that_cannot_be_right_is_refused_by_field_before_it_is_sent(api: SmallApi, client: Client) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.submit(NoopSpec(), pool="Not A Pool", priority=101)

    assert [complaint.where for complaint in caught.value.complaints] == ["/pool", "/priority"]
    assert api.asked == []


class Troubled(InProcess):
    """Fails below every request, or at its end, as httpx may."""

    def __init__(self, trouble: Exception, *, at: str) -> None:
        super().__init__({NoopSpec: NoopResult(attempt=1)})
        self.trouble = trouble
        self.at = at

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self.at == "never" or not request.url.path.endswith(self.at):
            return super().handle_request(request)
        raise self.trouble


def leaves(kind: type[httpx.HTTPError]) -> list[type[httpx.HTTPError]]:
    return [kind, *(leaf for below in kind.__subclasses__() for leaf in leaves(below))]


@pytest.mark.parametrize("kind", [each for each in leaves(httpx.HTTPError) if each is not httpx.HTTPStatusError])
def test_no_error_of_httpx_is_seen_by_callers(kind: type[httpx.HTTPError]) -> None:
    api = Troubled(kind("it is not to be"), at="never")
    with Client(transport=api, timeout=0.05) as client:
        job = client.submit(NoopSpec())
        calls: dict[str, Callable[[], object]] = {
            f"/jobs/{job.id}": lambda: client.job(job.id),
            "/events": lambda: list(client.events(job.id)),
            "/logs": lambda: list(client.log(job.id)),
            f"/webhooks/{job.id}": lambda: client.delete_webhook(job.id),
            "/jobs": lambda: list(client.jobs()),
            "/artefacts": lambda: client.upload(__file__),
        }
        for path, call in calls.items():
            api.at = path
            with pytest.raises(VLyardError, match="it is not to be"):
                call()


def test_a_stream_that_cannot_be_read_is_given_up_and_not_opened_again_for_ever() -> None:
    class Garbled(InProcess):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            reply = super().handle_request(request)
            if request.url.path.endswith("/events"):
                reply.headers["Content-Encoding"] = "gzip"
            return reply

    with Client(transport=Garbled({NoopSpec: NoopResult(attempt=1)})) as client:
        job = client.submit(NoopSpec())
        with pytest.raises(Unavailable, match=r"/events cannot be read"):
            list(client.events(job.id))


def test_a_deletion_whose_answer_was_lost_has_happened(api: SmallApi, client: Client) -> None:
    gone = problem(404, "not_found", "There is no such webhook.")
    api.faults["DELETE /v1/webhooks"] = [DROPPED, Fault(gone)]
    client.delete_webhook(uuid4())

    api.faults["DELETE /v1/webhooks"] = [Fault(gone)]
    with pytest.raises(NotFound):
        client.delete_webhook(uuid4())


def test_a_whole_key_is_revoked_by_its_prefix_alone(api: SmallApi, client: Client) -> None:
    api.faults["DELETE /v1/keys"] = [Fault(Reply(204))] * 2
    client.revoke_key(f"vly_{'a' * 12}_{'b' * 64}")
    client.revoke_key("a/b")

    assert [asked.path for asked in api.asked] == [f"/v1/keys/{'a' * 12}", "/v1/keys/a%2Fb"]


@pytest.mark.parametrize("name", ["", " ", ".", ".."])
def test_a_name_that_is_none_never_becomes_a_path(api: SmallApi, client: Client, name: str) -> None:
    for call in (client.keys, client.create_key, client.revoke_key):
        with pytest.raises(InvalidInput, match="is no name"):
            call(name)
    assert api.asked == []


def test_bodies_that_cannot_be_right_are_refused_by_field_before_they_are_sent(api: SmallApi, client: Client) -> None:
    calls: dict[str, Callable[[], object]] = {
        "/name": lambda: client.create_team("a b"),
        "/role": lambda: client.create_key("vision", "king"),
        "/events": lambda: client.create_webhook("https://example.org", []),
        "/expires_in": lambda: client.submit(NoopSpec(), expires_in=-1),
    }
    for field, call in calls.items():
        with pytest.raises(InvalidInput) as caught:
            call()
        assert [complaint.where for complaint in caught.value.complaints] == [field]
    with pytest.raises(InvalidInput):
        client.create_pool("Night")
    assert api.asked == []
