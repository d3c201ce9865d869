"""Whatever anybody sends, wherever: no request is beyond what the API foresees."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from fastapi.routing import iter_route_contexts

from api.app import make_app
from control.settings import Settings
from tests.api.test_tenancy import ADMINISTERED, THINGS
from tests.api.visitor import Visitor

# Each is written as JSON, so that a number may have any length and a text may hold half a character.
VALUES = (
    str(10**30), str(-(10**30)), "9" * 5_000, "1e400", "NaN", "-1", '"\\u0000"', '"\\ud800"', f'"{"x" * 40_000}"',
    '{"\\ud800": 1}', '{"\\u0000": 1}', "[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300, "null", "true", "[]",
)  # fmt: skip
BODIES = ("", "{", "null", "[]", "1", '"a"', "[" * 100_000, '{"spec": {}}', "\ud800".encode("utf-8", "surrogatepass"))
IN_PATHS = ("%00", "%ff%fe", "a" * 3_000, str(10**30), "..%2f..", "%F0%9F%98%80", "%22", "-1", "%25s")
IN_QUERIES = ("\0", "9999999999", str(10**30), "-1", "1e400", "NaN", "a" * 3_000, "\U0001f600", "")


@cache
def operations() -> Mapping[str, Mapping[str, Any]]:
    """Every method of every path, as OpenAPI describes it."""
    app = make_app(Settings())
    ours = {route.path_format for route in iter_route_contexts(app.routes)}
    described = app.openapi()["paths"]
    assert len(described) > 30
    assert described.keys() <= ours
    return {f"{method.upper()} {path}": row for path, each in described.items() for method, row in each.items()}


def examples(operation: Mapping[str, Any]) -> Iterator[Any]:
    """Bodies that the documentation shows."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    yield from (each["value"] for each in content.get("examples", {}).values())
    yield from content.get("schema", {}).get("examples", ())
    yield {}


def changed(value: Any) -> Iterator[tuple[str, str]]:
    """The JSON of a body with one value after the other replaced by each of ours."""
    found = list(leaves(value))
    for number, (place, steps) in enumerate(found):
        for new in VALUES[number % 4 :: 4 if len(found) > 4 else 1]:  # all of them, if not everywhere
            yield f"{place}: {new[:30]}", replaced(value, steps, new)


def leaves(value: Any, steps: tuple[Any, ...] = ()) -> Iterator[tuple[str, tuple[Any, ...]]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, each in inner:
        yield "/".join(map(str, (*steps, step))), (*steps, step)
        yield from leaves(each, (*steps, step))


def replaced(value: Any, steps: tuple[Any, ...], new: str) -> str:
    mark = uuid4().hex
    copy = json.loads(json.dumps(value))
    inner = copy
    for step in steps[:-1]:
        inner = inner[step]
    inner[steps[-1]] = mark
    return json.dumps(copy).replace(f'"{mark}"', new)


def place(visitor: Visitor, path: str) -> str:
    """The path with things of the visitor's."""
    for name in [part.partition("}")[0] for part in path.split("{")[1:]]:
        known = "first" if name in ADMINISTERED else "prod" if name == "alias" else THINGS[name](visitor)
        path = path.replace(f"{{{name}}}", quote(known))
    return path


@pytest.mark.parametrize("named", sorted(operations()))
def test_a_request_of_whatever_nonsense_is_refused_and_never_a_surprise(visitor: Visitor, named: str) -> None:
    method, path = named.split(" ")
    operation = operations()[named]
    there = place(visitor, path)
    answers: dict[str, Any] = {}

    def ask(what: str, where: str, **more: Any) -> None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": uuid4().hex, **more.pop("headers", {})}
        answers[what] = visitor.call(method, where, headers, **more).status_code

    # when a path, a query, a header or a body is anything at all
    for name in (each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"):
        for value in IN_PATHS:
            ask(f"path {name}: {value[:30]}", path.replace(f"{{{name}}}", value).replace("{", "").replace("}", ""))
    for name in (each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"):
        for value in IN_QUERIES:
            ask(f"query {name}: {value[:30]!r}", there, params={name: value})
    for value in ("wait=\xb2", "wait=1e400", "\xff", "x" * 9_000):
        strange = dict.fromkeys(("Prefer", "Last-Event-ID", "Idempotency-Key"), value.encode("latin-1"))
        ask(f"headers: {value[:30]!r}", there, headers=strange)
    if "requestBody" in operation:
        for body in BODIES:
            ask(f"body: {body[:30]!r}", there, content=body)
        for number, example in enumerate(examples(operation)):
            for what, body in changed(example):
                ask(f"example {number}, {what}", there, content=body)
    # then it is answered, and never with a surprise of ours
    assert {what: status for what, status in answers.items() if status >= 500} == {}
