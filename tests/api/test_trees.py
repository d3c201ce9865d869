"""A directory as one artefact: announced with its manifest, sent file by file, read by file, by page or as a zip."""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.api.conftest import Join
from tests.api.test_uploads_in_parts import complete, missing
from tests.api.visitor import Visitor

LARGE = bytes(range(256)) * 4 * 1024 * 6  # 6 MiB: two parts
FILES = {
    "labels/1.txt": b"0 0.5 0.5 1 1\n",
    "labels/2.txt": b"",
    "images/\u5199\u771f.jpg": b"a picture, say",
    "images/again.jpg": b"a picture, say",
    "large.bin": LARGE,
}


def announce(visitor: Visitor, files: Mapping[str, bytes] = FILES, **more: Any) -> dict[str, Any]:
    reply = visitor.post("/v1/artefacts:tree", {"name": "street", "files": rows(files), **more})
    assert reply.status_code == 201, reply.text
    return dict(reply.json())


def rows(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    return [
        {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in files.items()
    ]


def send_all(visitor: Visitor, tree: dict[str, Any], files: Mapping[str, bytes] = FILES) -> None:
    for piece in missing(visitor, tree)["data"]:
        data = files[piece["path"]][piece["offset"] : piece["offset"] + piece["bytes"]]
        assert httpx.put(piece["url"], content=data, headers=piece["headers"], trust_env=False).is_success


def uploaded(visitor: Visitor, files: Mapping[str, bytes] = FILES) -> dict[str, Any]:
    tree = announce(visitor, files)
    send_all(visitor, tree, files)
    reply = complete(visitor, tree)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


@pytest.fixture
def tree(visitor: Visitor) -> dict[str, Any]:
    return uploaded(visitor)


def test_a_directory_is_announced_sent_completed_and_listed(visitor: Visitor) -> None:
    # given an announced directory
    announced = announce(visitor)
    assert (announced["kind"], announced["state"], announced["manifest_url"]) == ("tree", "pending", None)
    assert announced["bytes"] == sum(map(len, FILES.values()))
    # when all that is missing has been sent; equal files once, large ones in parts
    lacking = missing(visitor, announced)
    assert sorted((piece["bytes"], piece["part"]) for piece in lacking["data"] if piece["part"]) == [
        (2**20, 2),
        (5 * 2**20, 1),
    ]
    assert lacking["pieces"] == 5
    send_all(visitor, announced)
    assert missing(visitor, announced)["data"] == []
    ready = complete(visitor, announced).json()
    # then its manifest lists the files by path, and each can be fetched
    assert (ready["state"], ready["download_url"]) == ("ready", None)
    page = visitor.get(f"/v1/artefacts/{ready['id']}/manifest", params={"links": True}).json()
    assert [entry["path"] for entry in page["data"]] == sorted(FILES)
    assert {entry["path"]: httpx.get(entry["url"], trust_env=False).content for entry in page["data"]} == FILES
    manifest = httpx.get(ready["manifest_url"], trust_env=False)
    assert hashlib.sha256(manifest.content).hexdigest() == ready["sha256"]


def test_a_manifest_comes_in_pages_and_without_links_where_none_are_asked_for(
    visitor: Visitor, tree: dict[str, Any]
) -> None:
    path = f"/v1/artefacts/{tree['id']}/manifest"
    first = visitor.get(path, params={"limit": 3}).json()
    rest = visitor.get(path, params={"after": first["next_after"]}).json()
    assert [entry["path"] for entry in first["data"] + rest["data"]] == sorted(FILES)
    assert rest["next_after"] is None
    assert {entry["url"] for entry in first["data"]} == {None}


def test_equal_directories_have_equal_digests_whatever_order_they_were_announced_in(visitor: Visitor) -> None:
    turned = dict(reversed(FILES.items()))
    assert announce(visitor)["sha256"] == announce(visitor, turned)["sha256"]
    assert announce(visitor)["sha256"] != announce(visitor, {**FILES, "labels/2.txt": b"1"})["sha256"]


def test_a_directory_comes_as_one_zip_of_the_length_that_was_said_and_the_same_each_time(
    visitor: Visitor, tree: dict[str, Any]
) -> None:
    reply = visitor.get(f"/v1/artefacts/{tree['id']}/zip")
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, "application/zip")
    assert reply.headers["Content-Disposition"] == 'attachment; filename="street.zip"'
    assert int(reply.headers["Content-Length"]) == len(reply.content)
    with zipfile.ZipFile(io.BytesIO(reply.content)) as packed:
        assert packed.testzip() is None
        assert {name: packed.read(name) for name in packed.namelist()} == FILES
        assert {(entry.date_time, entry.external_attr >> 16) for entry in packed.infolist()} == {
            ((1980, 1, 1, 0, 0, 0), 0o100644)
        }
    redirect = visitor.get(f"/v1/artefacts/{tree['id']}/content")
    assert (redirect.status_code, redirect.headers["Location"]) == (307, f"/v1/artefacts/{tree['id']}/zip")
    assert visitor.get(redirect.headers["Location"]).content == reply.content


def test_a_directory_with_a_missing_or_other_file_is_refused_and_the_file_named(visitor: Visitor) -> None:
    tree = announce(visitor)
    pieces = {(piece["path"], piece["part"]): piece for piece in missing(visitor, tree)["data"]}
    for (path, part), piece in pieces.items():
        if path == "labels/1.txt":
            continue
        data = FILES[path][piece["offset"] : piece["offset"] + piece["bytes"]]
        wrong = data if part is None else b"x" * len(data)  # a part is not signed by its content
        assert httpx.put(piece["url"], content=wrong, headers=piece["headers"], trust_env=False).is_success
    reply = complete(visitor, tree)
    assert reply.status_code == 422
    assert {error["pointer"] for error in reply.json()["errors"]} == {"labels/1.txt", "large.bin/sha256"}
    # and exactly these are missing afterwards
    assert {piece["path"] for piece in missing(visitor, tree)["data"]} == {"labels/1.txt", "large.bin"}
    send_all(visitor, tree)
    assert complete(visitor, tree).json()["state"] == "ready"


def test_who_announces_the_same_directory_again_may_go_on_with_its_upload(visitor: Visitor) -> None:
    first = announce(visitor, resume=True)
    send_all(visitor, first)
    again = announce(visitor, resume=True)
    assert again["id"] == first["id"]
    assert missing(visitor, again)["data"] == []


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../up",
        "a/../../up",
        "",
        "a//b",
        "./a",
        "a/",
        "a\\b",
        "a\0b",
        "C:/a",
        "x" * 256,
        "a/" * 600 + "b",
    ],
    ids=lambda path: ascii(path)[:12],
)
def test_a_path_that_leads_elsewhere_or_is_no_path_is_refused_and_named(visitor: Visitor, path: str) -> None:
    reply = visitor.post("/v1/artefacts:tree", {"name": "street", "files": rows({"good": b"", path: b""})})
    assert reply.status_code == 422
    [error] = reply.json()["errors"]
    assert error["pointer"] == "/files/1/path"
    assert ascii(path)[1:20] in ascii(error["detail"]).replace("\\\\", "\\")


def test_two_files_in_one_place_are_refused_and_named(visitor: Visitor) -> None:
    doubled = {"name": "street", "files": rows({"a": b"", "b": b""}) + rows({"a": b"1"})}
    nested = {"name": "street", "files": rows({"a": b"", "a/b": b""})}
    for body in (doubled, nested):
        reply = visitor.post("/v1/artefacts:tree", body)
        assert (reply.status_code, [error["pointer"] for error in reply.json()["errors"]]) == (422, ["a"])


@pytest.mark.parametrize("count", [0, 20_001])
def test_a_directory_without_files_or_with_too_many_is_refused(visitor: Visitor, count: int) -> None:
    files = [{"path": str(number), "bytes": 0, "sha256": "0" * 64} for number in range(count)]
    reply = visitor.post("/v1/artefacts:tree", {"name": "street", "files": files})
    assert (reply.status_code, [error["pointer"] for error in reply.json()["errors"]]) == (422, ["/files"])


def test_names_that_differ_by_case_alone_are_two_files(visitor: Visitor) -> None:
    files = {"A.txt": b"large", "a.txt": b"small"}
    tree = uploaded(visitor, files)
    with zipfile.ZipFile(io.BytesIO(visitor.get(f"/v1/artefacts/{tree['id']}/zip").content)) as packed:
        assert {name: packed.read(name) for name in packed.namelist()} == files


def test_a_file_has_no_manifest_and_no_zip_and_a_pending_tree_neither(visitor: Visitor) -> None:
    file, pending = visitor.upload(b"a"), announce(visitor)
    for artefact in (file, pending):
        for what in ("manifest", "zip"):
            reply = visitor.get(f"/v1/artefacts/{artefact['id']}/{what}")
            assert (reply.status_code, reply.json()["code"]) == (409, "conflict")


def test_another_teams_directory_is_not_found(join: Join, tree: dict[str, Any]) -> None:
    stranger = join()
    for what in ("", "/manifest", "/zip", "/content", "/upload"):
        assert stranger.get(f"/v1/artefacts/{tree['id']}{what}").status_code == 404
