"""/v1/artefacts: bytes go straight to S3 and come straight from there; the API checks that they are the right ones."""

import hashlib
from urllib.parse import quote

import httpx
import pytest

from tests.api.visitor import Visitor, send

CONTENT = b"a picture, say"


def problem(reply: httpx.Response) -> tuple[int, str, list[str]]:
    body = reply.json()
    return reply.status_code, body["code"], [error["pointer"] for error in body["errors"]]


def test_a_file_is_announced_sent_completed_and_downloaded(visitor: Visitor) -> None:
    # given an announced file
    announced = visitor.announce(CONTENT)
    assert (announced["state"], announced["download_url"]) == ("pending", None)
    assert announced["upload"]["method"] == "PUT"
    assert announced["upload"]["headers"]["Content-Length"] == str(len(CONTENT))
    # when its bytes are sent and the upload is completed
    assert send(announced, CONTENT).status_code == 200
    completed = visitor.post(f"/v1/artefacts/{announced['id']}/complete").json()
    # then it is ready, and what is downloaded are those bytes
    assert (completed["state"], completed["upload"]) == ("ready", None)
    assert completed["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert httpx.get(completed["download_url"], trust_env=False).content == CONTENT
    redirect = visitor.get(f"/v1/artefacts/{announced['id']}/content")
    assert redirect.status_code == 307
    assert httpx.get(redirect.headers["Location"], trust_env=False).content == CONTENT
    shown = visitor.get(f"/v1/artefacts/{announced['id']}").json()
    assert {**shown, "download_url": ""} == {**completed, "download_url": ""}


def test_completing_twice_is_completing(visitor: Visitor) -> None:
    artefact = visitor.upload(CONTENT)
    assert visitor.post(f"/v1/artefacts/{artefact['id']}/complete").json()["state"] == "ready"


@pytest.mark.parametrize("content", [CONTENT.upper(), CONTENT[:-1], CONTENT + b"!"])
def test_other_bytes_than_the_announced_ones_are_refused_by_the_store(visitor: Visitor, content: bytes) -> None:
    artefact = visitor.announce(CONTENT)
    assert send(artefact, content).status_code in {400, 403}
    reply = visitor.post(f"/v1/artefacts/{artefact['id']}/complete")
    assert problem(reply) == (422, "invalid_input", [])
    assert "nothing was uploaded for street.jpg" in reply.json()["detail"]


def test_an_upload_that_was_not_completed_cannot_be_downloaded(visitor: Visitor) -> None:
    artefact = visitor.announce(CONTENT)
    send(artefact, CONTENT)
    assert problem(visitor.get(f"/v1/artefacts/{artefact['id']}/content")) == (409, "conflict", [])
    assert visitor.get(f"/v1/artefacts/{artefact['id']}").json()["download_url"] is None


def test_an_empty_file_can_be_uploaded(visitor: Visitor) -> None:
    assert visitor.upload(b"")["state"] == "ready"


@pytest.mark.parametrize("name", ["写真 ü.jpg", "a b&c=d?e#f%20.jpg", "it's (1)+2;3.jpg"], ids=ascii)
def test_a_name_of_any_characters_survives_the_way(visitor: Visitor, name: str) -> None:
    artefact = visitor.upload(CONTENT, name)
    assert artefact["name"] == name
    reply = httpx.get(artefact["download_url"], trust_env=False)
    assert reply.content == CONTENT
    disposition = reply.headers["Content-Disposition"]
    assert disposition.endswith(f'filename="{name}"' if name.isascii() else f"filename*=UTF-8''{quote(name)}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a/b.jpg"),
        ("name", "a\\b.jpg"),
        ("name", ".."),
        ("name", ""),
        ("name", "a\0b"),
        ("bytes", -1),
        ("bytes", 6 * 2**40),
        ("sha256", "0" * 63),
        ("sha256", "Z" * 64),
        ("media_type", "picture"),
        ("media_type", "image/jpeg\r\nX-Evil: 1"),
        ("media_type", "bíld/jpeg"),
    ],
    ids=ascii,
)
def test_an_announcement_that_is_not_valid_is_refused_and_its_field_named(
    visitor: Visitor, field: str, value: object
) -> None:
    body = {"name": "a.jpg", "bytes": 1, "sha256": "0" * 64, "media_type": "image/jpeg", field: value}
    assert problem(visitor.post("/v1/artefacts", body)) == (422, "invalid_input", [f"/{field}"])


def test_the_same_announcement_with_the_same_key_is_one_artefact(visitor: Visitor) -> None:
    body = {"name": "a.jpg", "bytes": 1, "sha256": "0" * 64}
    made = {visitor.post("/v1/artefacts", body, headers={"Idempotency-Key": "k"}).json()["id"] for _ in range(2)}
    assert len(made) == 1
