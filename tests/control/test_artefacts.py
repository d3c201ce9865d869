"""The artefact store on a real S3 server: what is stored comes back, what was altered does not, and outages."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
import pytest

from control.artefacts import ArtefactStore, Part
from control.fetching import PIECE_BYTES
from control.settings import Settings
from control.stack.stack import Stack
from tests.system import eventually
from vlyard.errors import InvalidInput, Unavailable
from vlyard.files import Stored

CLOSED = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def settings(servers: Stack) -> Settings:
    return Settings.model_validate({
        **{name.removeprefix("VLYARD_").lower(): value for name, value in servers.settings.items() if "_S3_" in name},
        "s3_bucket": f"artefacts-{uuid4().hex}",
    })  # fmt: skip


@pytest.fixture(scope="module")
def store(settings: Settings) -> ArtefactStore:
    store = ArtefactStore(settings)
    store.ensure_bucket()
    return store


def away(settings: Settings, endpoint: str = CLOSED) -> ArtefactStore:
    return ArtefactStore(settings.model_copy(update={"s3_endpoint": endpoint}))


def file_of(content: bytes, name: str = "street.jpg", media_type: str = "image/jpeg", key: str = "") -> Stored:
    digest = hashlib.sha256(content).hexdigest()
    return Stored(UUID(int=1), name, media_type, key or f"tests/{uuid4()}/{name}", len(content), digest)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.write_bytes(b"picture")
    return path


# --- bytes ----------------------------------------------------------------------------------------------------


def test_what_is_put_is_measured_and_comes_back(store: ArtefactStore, here: Path, tmp_path: Path) -> None:
    file = file_of(b"picture")
    assert store.put(file.key, here, "image/jpeg") == (7, file.sha256)
    store.fetch(file, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"picture"
    assert b"".join(store.read(file.key)) == b"picture"


def test_a_file_of_several_parts_comes_back_whole(store: ArtefactStore, tmp_path: Path) -> None:
    content = bytes(range(256)) * (PIECE_BYTES // 256) + b"the end"  # sent in parts, and fetched in two ranges
    (tmp_path / "large").write_bytes(content)
    file = file_of(content)
    store.put(file.key, tmp_path / "large", "image/jpeg")
    store.fetch(file, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    for other in (len(content) + 1, 2 * PIECE_BYTES + 1):  # it was longer when it was stored
        with pytest.raises(InvalidInput, match="altered"):
            store.fetch(replace(file, bytes=other), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_small_file_travels_without_a_thread_of_its_own(store: ArtefactStore, here: Path, tmp_path: Path) -> None:
    # given somebody who hears of every thread that begins
    begun: set[str] = set()
    threading.setprofile(lambda *_: begun.add(threading.current_thread().name))
    try:
        # when a small file is stored and fetched, then none does
        file = file_of(b"picture")
        store.put(file.key, here, "image/jpeg")
        store.fetch(file, tmp_path / "back")
        assert begun == set()
        # and for a large one, some do
        (tmp_path / "large").write_bytes(bytes(9 * 2**20))
        store.put(f"{file.key}.large", tmp_path / "large", "image/jpeg")
        assert begun
    finally:
        threading.setprofile(None)


def test_content_that_was_altered_is_refused_and_named(store: ArtefactStore, here: Path, tmp_path: Path) -> None:
    file = file_of(b"PICTURE")
    store.put(file.key, here, "image/jpeg")
    with pytest.raises(InvalidInput, match=r"street\.jpg was altered"):
        store.fetch(file, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_content_that_is_gone_is_the_jobs_end_and_not_an_outage(
    store: ArtefactStore, here: Path, tmp_path: Path
) -> None:
    file = file_of(b"picture")
    store.put(file.key, here, "image/jpeg")
    store.delete(file.key)
    store.delete(file.key)  # what is not there can be deleted
    assert store.head(file.key) is None
    with pytest.raises(InvalidInput, match=r"street\.jpg is not in the store"):
        store.fetch(file, tmp_path / "back")


def test_the_bucket_may_be_ensured_by_many_at_once_and_again(settings: Settings) -> None:
    fresh = settings.model_copy(update={"s3_bucket": f"fresh-{uuid4().hex}"})
    with pytest.raises(Unavailable):
        ArtefactStore(fresh).reachable()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: ArtefactStore(fresh).ensure_bucket(), range(4)))
    ArtefactStore(fresh).reachable()


# --- objects that come in parts, and many at once ---------------------------------------------------------------


def send_part(store: ArtefactStore, key: str, upload: str, number: int, content: bytes) -> None:
    url, headers = store.part_link(key, upload, number, len(content))
    assert httpx.put(url, content=content, headers=headers, trust_env=False).is_success


def test_an_object_is_put_together_from_its_parts(store: ArtefactStore) -> None:
    key = f"tests/{uuid4()}"
    upload = store.open_multipart(key, "image/jpeg")
    assert store.parts(key, upload) == {}
    send_part(store, key, upload, 2, b"the end")
    send_part(store, key, upload, 1, bytes(5 * 2**20))
    send_part(store, key, upload, 1, bytes(5 * 2**20))  # once more
    parts = store.parts(key, upload) or {}
    assert {number: part.bytes for number, part in parts.items()} == {1: 5 * 2**20, 2: 7}
    assert [each.upload for each in store.multiparts(key)] == [upload]
    store.join(key, upload, parts)
    store.join(key, upload, parts)  # somebody else was faster
    assert b"".join(store.read(key)) == bytes(5 * 2**20) + b"the end"
    assert (store.parts(key, upload), list(store.multiparts(key))) == (None, [])


def test_an_object_that_is_given_up_leaves_nothing(store: ArtefactStore) -> None:
    key = f"tests/{uuid4()}"
    upload = store.open_multipart(key, "image/jpeg")
    send_part(store, key, upload, 1, b"the only one")
    store.abort(key, upload)
    store.abort(key, upload)  # what is not there can be given up
    assert (store.parts(key, upload), list(store.multiparts(key)), store.head(key)) == (None, [], None)


def test_objects_are_listed_and_removed_by_what_their_keys_begin_with(store: ArtefactStore) -> None:
    folder = f"tests/{uuid4()}/"
    for name in ("a", "b/c", "b/d"):
        store.put_bytes(folder + name, b"123", "a/b")
    assert sorted(store.listed(folder)) == [(f"{folder}a", 3), (f"{folder}b/c", 3), (f"{folder}b/d", 3)]
    store.delete_each([f"{folder}a", f"{folder}b/d", f"{folder}absent"])
    assert list(store.listed(folder)) == [(f"{folder}b/c", 3)]


# --- links ----------------------------------------------------------------------------------------------------


def put(store: ArtefactStore, file: Stored, content: bytes, **changes: str) -> int:
    url, headers = store.upload_link(file)
    sent = {**headers, "Content-Length": str(len(content)), **changes}
    return httpx.put(url, content=content, headers=sent, trust_env=False).status_code


def test_an_upload_link_takes_exactly_the_bytes_it_was_made_for(store: ArtefactStore) -> None:
    file = file_of(b"picture")
    assert put(store, file, b"PICTURE") >= 400
    assert store.head(file.key) is None
    assert put(store, file, b"picture") == httpx.codes.OK
    assert store.head(file.key) == (7, file.sha256)


@pytest.mark.parametrize("content", [b"pict", b"picture and more", b""])
def test_an_upload_link_refuses_another_length(store: ArtefactStore, content: bytes) -> None:
    file = file_of(b"picture")
    assert put(store, file, content) >= 400
    assert store.head(file.key) is None


def test_an_upload_link_refuses_bytes_whose_checksum_the_sender_changed_too(store: ArtefactStore) -> None:
    file, other = file_of(b"picture"), file_of(b"PICTURE")
    checksum = store.upload_link(other)[1]["x-amz-checksum-sha256"]
    assert put(store, file, b"PICTURE", **{"x-amz-checksum-sha256": checksum}) == httpx.codes.FORBIDDEN
    assert store.head(file.key) is None


NAMES = {
    "street.jpg": 'attachment; filename="street.jpg"',
    'a "b" \\c.jpg': 'attachment; filename="a _b_ _c.jpg"',
    "café.jpg": "attachment; filename=\"caf?.jpg\"; filename*=UTF-8''caf%C3%A9.jpg",
    "写真 1.jpg": f"attachment; filename=\"?? 1.jpg\"; filename*=UTF-8''{quote('写真 1.jpg')}",
    "it's; 100%.jpg": 'attachment; filename="it\'s; 100%.jpg"',
}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_download_link_serves_the_content_under_its_name_and_type(
    store: ArtefactStore, here: Path, name: str
) -> None:
    file = file_of(b"picture", name)
    store.put(file.key, here, "application/octet-stream")
    reply = httpx.get(store.download_link(file), trust_env=False)
    assert reply.content == b"picture"
    assert reply.headers["Content-Type"] == "image/jpeg"
    assert reply.headers["Content-Disposition"] == NAMES[name]


def test_a_link_that_was_changed_or_that_expired_is_refused(
    store: ArtefactStore, settings: Settings, here: Path
) -> None:
    file = file_of(b"picture")
    store.put(file.key, here, "image/jpeg")
    url = store.download_link(file)
    assert httpx.get(url.replace(file.key, "tests/other"), trust_env=False).status_code == httpx.codes.FORBIDDEN
    short = ArtefactStore(settings.model_copy(update={"presign_seconds": 1})).download_link(file)
    eventually(lambda: httpx.get(short, trust_env=False).status_code == httpx.codes.FORBIDDEN, what="the expiry")


def test_links_are_made_for_the_address_that_clients_reach(settings: Settings) -> None:
    outside = ArtefactStore(settings.model_copy(update={"s3_public_url": "https://s3.example.org"}))
    file = file_of(b"picture")
    assert outside.download_link(file).startswith("https://s3.example.org/")
    assert outside.upload_link(file)[0].startswith("https://s3.example.org/")
    outside.reachable()  # while VLyard itself uses the other one


def test_a_page_from_anywhere_may_use_the_links(store: ArtefactStore, here: Path) -> None:
    file = file_of(b"picture")
    store.put(file.key, here, "image/jpeg")
    reply = httpx.get(store.download_link(file), headers={"Origin": "https://page.example.org"}, trust_env=False)
    assert reply.headers["Access-Control-Allow-Origin"] in {"*", "https://page.example.org"}


# --- outages --------------------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_reached_is_unavailable_in_every_verb(
    settings: Settings, here: Path, tmp_path: Path
) -> None:
    store, file = away(settings), file_of(b"picture")
    for verb in (
        store.ensure_bucket,
        store.reachable,
        lambda: store.fetch(file, tmp_path / "back"),
        lambda: store.put(file.key, here, "image/jpeg"),
        lambda: store.head(file.key),
        lambda: list(store.read(file.key)),
        lambda: store.delete(file.key),
        lambda: store.put_bytes(file.key, b"", "a/b"),
        lambda: store.delete_each([file.key]),
        lambda: list(store.listed("teams/")),
        lambda: store.open_multipart(file.key, "a/b"),
        lambda: store.parts(file.key, "upload"),
        lambda: store.join(file.key, "upload", {1: Part(1, "etag")}),
        lambda: store.abort(file.key, "upload"),
        lambda: list(store.multiparts("teams/")),
    ):
        with pytest.raises(Unavailable, match="artefact store"):
            verb()


@pytest.fixture
def breaking() -> Iterator[str]:
    """The address of a server that promises 100 bytes, and breaks the connection after 5."""
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: "e"\r\nConnection: close\r\n\r\n'
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return  # the test is over
                with connection:
                    request = connection.recv(65536)
                    connection.sendall(head + (b"" if request.startswith(b"HEAD") else b"12345"))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def test_a_download_that_breaks_off_again_and_again_is_unavailable(
    settings: Settings, breaking: str, tmp_path: Path
) -> None:
    with pytest.raises(Unavailable):
        away(settings, breaking).fetch(file_of(b"picture"), tmp_path / "back")
    assert list(tmp_path.iterdir()) == []


def test_wrong_credentials_are_unavailable_and_say_what_the_server_said(settings: Settings) -> None:
    stranger = ArtefactStore(settings.model_copy(update={"s3_access_key": "nobody"}))
    with pytest.raises(Unavailable, match="403"):
        stranger.reachable()
