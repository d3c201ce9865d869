"""Files on their way through the client: whole and unaltered, or not there at all."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.language.small_api import KEY, Fault, Reply, SmallApi, serving
from vlyard import Client
from vlyard.client.transfer import media_type
from vlyard.errors import Conflict, InvalidInput, UserError

DROPPED = Fault(cut_after=10)  # the answer is lost on its way


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serving(SmallApi()) as api:
        yield api


@pytest.fixture
def client(api: SmallApi) -> Iterator[Client]:
    with Client(api.url, KEY) as client:
        yield client


def test_an_uploaded_file_comes_back_byte_by_byte(api: SmallApi, client: Client, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "street.png").write_bytes(content)

    artefact = client.upload(tmp_path / "street.png")
    written = client.download(artefact.id, tmp_path / "back.png")

    assert (artefact.state, artefact.name, artefact.media_type) == ("ready", "street.png", "image/png")
    assert (artefact.bytes, artefact.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert written == tmp_path / "back.png"
    assert written.read_bytes() == content


def test_an_upload_tells_how_far_it_is(client: Client, tmp_path: Path) -> None:
    (tmp_path / "street.png").write_bytes(os.urandom(3 << 20))
    told: list[tuple[int, int]] = []

    client.upload(tmp_path / "street.png", on_progress=lambda there, total: told.append((there, total)))

    assert [there for there, _ in told] == [1 << 20, 2 << 20, 3 << 20, 3 << 20]
    assert {total for _, total in told} == {3 << 20}


def test_an_empty_file_is_a_file_too(client: Client, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()

    artefact = client.upload(tmp_path / "empty.txt", name="nothing.txt", media_type="text/x-nothing")

    assert (artefact.bytes, artefact.name, artefact.media_type) == (0, "nothing.txt", "text/x-nothing")
    assert client.download(artefact.id, tmp_path / "back").read_bytes() == b""


def test_presigned_urls_never_see_the_api_key(api: SmallApi, client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")

    client.download(client.upload(tmp_path / "a.txt").id, tmp_path / "b.txt")

    to_s3 = [asked for asked in api.asked if asked.path.startswith("/s3/")]
    assert [asked.method for asked in to_s3] == ["PUT", "GET"]
    assert not any(KEY in str(asked.headers) for asked in to_s3)


def test_a_transfer_goes_on_after_lost_connections_and_busy_stores(
    api: SmallApi, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a" * 1000)
    api.faults = {"PUT /s3/": [Fault(Reply(500)), Fault(Reply(503))], "GET /s3/": [DROPPED, Fault(Reply(500))]}

    artefact = client.upload(tmp_path / "a.txt")
    written = client.download(artefact.id, tmp_path / "b.txt")

    assert written.read_text() == "a" * 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]


def test_altered_bytes_are_refused_and_leave_the_file_that_was_there(
    api: SmallApi, client: Client, tmp_path: Path
) -> None:
    artefact = api.add_artefact("a.txt", b"right")
    api.objects[f"/s3/{artefact.id}"] = b"wrong"
    (tmp_path / "old.txt").write_text("old")

    for target in ("old.txt", "new.txt"):
        with pytest.raises(InvalidInput, match="was altered"):
            client.download(artefact.id, tmp_path / target)

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.txt", "old")]


def test_an_upload_that_arrived_altered_is_refused_by_the_api(api: SmallApi, client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    api.faults["PUT /s3/"] = [Fault(Reply(200))]  # says yes and keeps nothing

    with pytest.raises(InvalidInput, match="other bytes"):
        client.upload(tmp_path / "a.txt")


def test_a_store_that_refuses_is_named_without_the_signature(api: SmallApi, client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    api.faults["PUT /s3/"] = [Fault(Reply(403))]

    with pytest.raises(UserError, match=r"PUT http://127\.0\.0\.1:\d+/s3/[0-9a-f-]+ answered 403") as caught:
        client.upload(tmp_path / "a.txt")

    assert "signature" not in str(caught.value)


def test_an_artefact_without_content_cannot_be_downloaded(api: SmallApi, client: Client, tmp_path: Path) -> None:
    artefact = api.add_artefact("a.txt", b"", state="pending")

    with pytest.raises(Conflict, match="not completed"):
        client.download(artefact.id, tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["..", "."])
def test_a_name_that_leads_out_of_the_folder_is_refused(
    api: SmallApi, client: Client, tmp_path: Path, name: str
) -> None:
    artefact = api.add_artefact(name, b"a")

    with pytest.raises(InvalidInput, match="is not a file's name"):
        client.download(artefact.id, tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_download_into_a_folder_takes_the_artefacts_name(api: SmallApi, client: Client, tmp_path: Path) -> None:
    assert client.download(api.add_artefact("report.json", b"{}").id, tmp_path) == tmp_path / "report.json"


def test_a_text_with_a_slash_is_a_folder_which_is_made_once_the_artefact_is_there(
    api: SmallApi, client: Client, tmp_path: Path
) -> None:
    artefact, outside = (api.add_artefact(name, b"a") for name in ("a.txt", ".."))

    written = client.download(artefact.id, f"{tmp_path}/new/street/")

    assert (written, written.read_bytes()) == (tmp_path / "new" / "street" / "a.txt", b"a")
    assert client.download(artefact.id, tmp_path / "file") == tmp_path / "file"
    with pytest.raises(InvalidInput, match="is not a file's name"):
        client.download(outside.id, f"{tmp_path}/other/")
    with pytest.raises(InvalidInput, match="the folder cannot be made"):
        client.download(artefact.id, f"{tmp_path}/file/")
    assert not (tmp_path / "other").exists()


def test_files_that_cannot_be_read_or_written_are_named(api: SmallApi, client: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"absent\.txt: No such file"):
        client.upload(tmp_path / "absent.txt")
    with pytest.raises(InvalidInput, match=r"absent/a\.txt: No such file"):
        client.download(api.add_artefact("a.txt", b"a").id, tmp_path / "absent" / "a.txt")


def test_a_file_that_shrinks_while_it_is_sent_is_named(api: SmallApi, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"x" * 1000)

    class Shrinking(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "PUT":
                path.write_bytes(b"x")
            return super().handle_request(request)

    with Client(api.url, KEY, transport=Shrinking()) as client, pytest.raises(InvalidInput, match="became shorter"):
        client.upload(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.JPG", "image/jpeg"),
        ("a.webp", "image/webp"),
        ("a.tar.gz", "application/gzip"),
        ("a.zip", "application/zip"),
        ("labels", "application/octet-stream"),
    ],
)
def test_a_media_type_is_guessed_from_the_name(name: str, expected: str) -> None:
    assert media_type(Path(name)) == expected
