"""Large files come to S3 in parts, in any order and over any time, and are what was announced or nothing."""

import hashlib
from typing import Any

import httpx
import pytest

from control.artefacts import ArtefactStore
from control.settings import Settings
from tests.api.conftest import Join
from tests.api.visitor import Visitor

MIB = 2**20
PART = 5 * MIB
CONTENT = b"".join(bytes([number]) * MIB for number in range(11)) + b"the end"  # three parts, the last one shorter


def announce(visitor: Visitor, content: bytes = CONTENT, **more: Any) -> dict[str, Any]:
    body = {"name": "street.bin", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **more}
    reply = visitor.post("/v1/artefacts", body)
    assert reply.status_code == 201, reply.text
    return dict(reply.json())


def missing(visitor: Visitor, artefact: dict[str, Any], limit: int = 100) -> dict[str, Any]:
    reply = visitor.get(f"/v1/artefacts/{artefact['id']}/upload", params={"limit": limit})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def send(piece: dict[str, Any], content: bytes = CONTENT) -> httpx.Response:
    data = content[piece["offset"] : piece["offset"] + piece["bytes"]]
    return httpx.put(piece["url"], content=data, headers=piece["headers"], trust_env=False)


def complete(visitor: Visitor, artefact: dict[str, Any], **more: Any) -> Any:
    return visitor.post(f"/v1/artefacts/{artefact['id']}/complete", **more)


def numbers(page: dict[str, Any]) -> list[int]:
    return [piece["part"] for piece in page["data"]]


def uploaded(visitor: Visitor, content: bytes = CONTENT) -> dict[str, Any]:
    """An upload of which every part has been sent."""
    artefact = announce(visitor, content)
    for piece in missing(visitor, artefact)["data"]:
        assert send(piece, content).is_success
    return artefact


def test_a_large_file_is_announced_in_parts_and_comes_back_whole(visitor: Visitor) -> None:
    # given an announced file of three parts
    artefact = announce(visitor)
    assert artefact["upload"] is None
    assert artefact["parts"] == {"part_bytes": PART, "count": 3}
    # when its parts come in another order, one of them twice
    page = missing(visitor, artefact)
    assert (numbers(page), page["pieces"], page["bytes"]) == ([1, 2, 3], 3, len(CONTENT))
    for piece in [*reversed(page["data"]), page["data"][0]]:
        assert send(piece).is_success
    assert missing(visitor, artefact)["data"] == []
    # then it is ready, and what is downloaded are those bytes
    ready = complete(visitor, artefact).json()
    assert ready["state"] == "ready"
    assert httpx.get(ready["download_url"], trust_env=False).content == CONTENT


def test_an_upload_says_what_it_lacks_and_goes_on_there(visitor: Visitor) -> None:
    artefact = announce(visitor)
    send(missing(visitor, artefact)["data"][1])
    page = missing(visitor, artefact, limit=1)
    assert (numbers(page), page["pieces"], page["bytes"]) == ([1], 2, len(CONTENT) - PART)
    for piece in missing(visitor, artefact)["data"]:
        assert send(piece).is_success
    assert complete(visitor, artefact).json()["state"] == "ready"


def test_completing_too_early_names_the_parts_that_are_missing(visitor: Visitor) -> None:
    artefact = announce(visitor)
    send(missing(visitor, artefact)["data"][1])
    reply = complete(visitor, artefact)
    assert reply.status_code == 422
    told = [error["pointer"] for error in reply.json()["errors"]]
    assert told == ["street.bin, part 1", "street.bin, part 3"]
    assert missing(visitor, artefact)["pieces"] == 2  # what is there stays there


def test_a_part_of_another_length_is_refused_by_the_store(visitor: Visitor) -> None:
    first = missing(visitor, announce(visitor))["data"][0]
    sent = httpx.put(first["url"], content=b"short", trust_env=False)
    assert sent.status_code == httpx.codes.FORBIDDEN


def test_wrong_bytes_are_refused_at_the_end_and_the_right_ones_can_be_sent_after(visitor: Visitor) -> None:
    # given an upload whose parts have the right lengths and other bytes
    artefact = announce(visitor)
    for piece in missing(visitor, artefact)["data"]:
        assert send(piece, CONTENT.swapcase()).is_success
    # when it is completed, then it is refused, and named is what differs
    reply = complete(visitor, artefact)
    assert (reply.status_code, [error["pointer"] for error in reply.json()["errors"]]) == (422, ["/sha256"])
    # and all of it is missing again, and can be sent
    page = missing(visitor, artefact)
    assert numbers(page) == [1, 2, 3]
    for piece in page["data"]:
        assert send(piece).is_success
    assert complete(visitor, artefact).json()["state"] == "ready"


def test_completing_twice_gives_the_same_answer_with_and_without_a_key(visitor: Visitor) -> None:
    artefact = uploaded(visitor)
    key = {"Idempotency-Key": "complete"}
    first, again, bare = complete(visitor, artefact, headers=key), complete(visitor, artefact, headers=key), None
    bare = complete(visitor, artefact)
    assert [reply.json()["state"] for reply in (first, again, bare)] == ["ready"] * 3
    assert missing(visitor, artefact)["data"] == []


def test_an_upload_that_was_put_together_and_not_confirmed_is_completed_by_the_next_try(
    visitor: Visitor, api_settings: Settings
) -> None:
    # given an API that died between putting the parts together and saying so
    artefact = uploaded(visitor)
    store = ArtefactStore(api_settings)
    [open_one] = [each for each in store.multiparts(f"teams/{visitor.team}/") if artefact["id"] in each.key]
    store.join(open_one.key, open_one.upload, store.parts(open_one.key, open_one.upload) or {})
    # when the client asks what is missing, then nothing is; and completing works
    assert missing(visitor, artefact)["data"] == []
    assert complete(visitor, artefact).json()["state"] == "ready"


def test_an_upload_that_the_store_gave_up_begins_again(visitor: Visitor, api_settings: Settings) -> None:
    artefact = uploaded(visitor)
    store = ArtefactStore(api_settings)
    [open_one] = [each for each in store.multiparts(f"teams/{visitor.team}/") if artefact["id"] in each.key]
    store.abort(open_one.key, open_one.upload)
    assert complete(visitor, artefact).status_code == 422
    page = missing(visitor, artefact)
    assert numbers(page) == [1, 2, 3]
    assert all(send(piece).is_success for piece in page["data"])
    assert complete(visitor, artefact).json()["state"] == "ready"


@pytest.mark.parametrize("content", [CONTENT, b"a small one"], ids=["in parts", "whole"])
def test_who_announces_the_same_file_again_may_go_on_with_its_upload(visitor: Visitor, content: bytes) -> None:
    first = announce(visitor, content, resume=True)
    send(missing(visitor, first)["data"][0], content)
    # the same file goes on, another one does not, and nor does who did not ask for it
    again = announce(visitor, content, resume=True)
    assert again["id"] == first["id"]
    assert missing(visitor, again)["bytes"] == max(len(content) - PART, 0)
    assert announce(visitor, content, resume=True, name="other.bin")["id"] != first["id"]
    assert announce(visitor, content)["id"] != first["id"]


def test_a_file_that_is_complete_is_no_upload_to_go_on_with(visitor: Visitor) -> None:
    artefact = uploaded(visitor)
    complete(visitor, artefact)
    assert announce(visitor, resume=True)["id"] != artefact["id"]


def test_another_team_goes_on_with_nobody_elses_upload(join: Join) -> None:
    owner, stranger = join(), join()
    artefact = announce(owner, resume=True)
    assert announce(stranger, resume=True)["id"] != artefact["id"]
    assert stranger.get(f"/v1/artefacts/{artefact['id']}/upload").status_code == 404
    assert stranger.post(f"/v1/artefacts/{artefact['id']}/complete").status_code == 404


def test_a_file_of_one_part_says_that_it_is_missing_until_it_is_there(visitor: Visitor) -> None:
    artefact = announce(visitor, b"small")
    [piece] = missing(visitor, artefact)["data"]
    assert (piece["part"], piece["offset"], piece["bytes"], piece["path"]) == (None, 0, 5, None)
    assert send(piece, b"small").is_success
    assert missing(visitor, artefact) == {**missing(visitor, artefact), "data": [], "pieces": 0, "bytes": 0}
    assert complete(visitor, artefact).json()["state"] == "ready"


def test_the_largest_file_has_ten_thousand_parts_of_which_a_page_is_shown(visitor: Visitor) -> None:
    reply = visitor.post("/v1/artefacts", {"name": "huge", "bytes": 5 * 2**40, "sha256": "0" * 64})
    parts = reply.json()["parts"]
    assert parts["count"] <= 10_000
    assert parts["part_bytes"] * parts["count"] >= 5 * 2**40
    page = missing(visitor, reply.json(), limit=2)
    assert (numbers(page), page["pieces"], page["bytes"]) == ([1, 2], parts["count"], 5 * 2**40)
