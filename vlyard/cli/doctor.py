"""`vlyard doctor`: looks at all that VLyard needs, one after the other, and says what to do about what is broken.

Here are the client's own checks. Those of the server side are found through the entry-point group `vlyard.checks`,
where their packages are installed.
"""

import os
import platform
import re
from collections.abc import Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution, entry_points, requires
from typing import Any

import httpx
import orjson
import typer

import vlyard
from vlyard.checks import Check, Checked, Finding, Mark, broken, ok, run, skipped
from vlyard.cli.listing import AsJson
from vlyard.cli.pools import self_test_text
from vlyard.client.calls import KEY_VARIABLE, URL_VARIABLE, Client
from vlyard.extras import installing
from vlyard.jobs.kinds import KINDS

GROUP = "vlyard.checks"
SIGNS = {Mark.OK: "✓", Mark.BROKEN: "✗", Mark.SKIPPED: "–"}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}  # never by way of a proxy from the environment
_REQUEST = 5.0  # seconds that the API may take for an answer
_PLACES = ("server", "worker", "embedded")  # the extras that users choose


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(doctor)


def doctor(as_json: AsJson = False) -> None:
    """Look at all that VLyard needs, here and at its API; fail if anything is broken."""
    seen: list[Checked] = []
    for each in run(_checks()):
        seen.append(each)
        if not as_json:
            _tell(each)
    if as_json:
        print(orjson.dumps([each.as_json() for each in seen], option=orjson.OPT_INDENT_2).decode())
    if any(each.mark is Mark.BROKEN for each in seen):
        raise typer.Exit(1)


def _tell(each: Checked) -> None:
    print(f"{SIGNS[each.mark]} {each.name}: {each.found}", flush=True)
    if each.fix:
        print(f"    → {each.fix}", flush=True)


def _checks() -> Iterator[Check]:
    yield Check("python", _python)
    yield Check("extras", _extras)
    yield from _api_checks()
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            checks = entry.load()
        except ImportError as error:
            left_out = f"not installed (no {error.name}): {installing(entry.name)}, where it is wanted"
            yield Check(entry.name, partial(skipped, left_out))
        else:
            yield from checks()


def _python() -> Finding:
    return ok(f"Python {platform.python_version()}, vlyard {vlyard.__version__}")


def _extras() -> Finding:
    """Which extras have all their packages here."""
    lacking: dict[str, list[str]] = {extra: [] for extra in _PLACES}
    for line in requires("vlyard") or ():
        found = re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)", line)
        if found and found[2] in lacking and found[1] != "vlyard" and not _is_installed(found[1]):
            lacking[found[2]].append(found[1])
    whole = [extra for extra, names in lacking.items() if not names]
    return ok(", ".join([*whole, *(f"no {extra}" for extra, names in lacking.items() if names)]))


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


# --- the API --------------------------------------------------------------------------------------------------


def _api_checks() -> Iterator[Check]:
    url = os.environ.get(URL_VARIABLE, "").strip().rstrip("/")
    if not url:
        yield Check("url", _without_url)
        return
    running = f"check {URL_VARIABLE}, and see that the API runs: vlyard api"
    yield Check("url", lambda: _health(url), running)
    yield Check("ready", lambda: _readiness(url), running)
    yield Check("version", lambda: _version(url), running)
    yield Check(
        "key", _key, f"set {KEY_VARIABLE} to a key of your team; administrators make one: vlyard keys create TEAM"
    )
    yield Check("workers", _workers, "see what the checks above say")


def _without_url() -> Finding:
    others = {name for name in os.environ if name.startswith("VLYARD_")} - {URL_VARIABLE, KEY_VARIABLE}
    if others:
        return skipped(f"{URL_VARIABLE} is not set: this machine serves, and asks nobody")
    return broken(
        f"{URL_VARIABLE} is not set", f"set it to the API's address, as in {URL_VARIABLE}=https://vlyard.example.org"
    )


def _get(url: str, path: str) -> httpx.Response:
    trusting = httpx.URL(url).host not in _LOOPBACK
    return httpx.get(url + path, timeout=_REQUEST, trust_env=trusting)


def _health(url: str) -> Finding:
    reply = _get(url, "/healthz")
    if not reply.is_success:
        return broken(f"{url}/healthz answers {reply.status_code}", f"check {URL_VARIABLE}: it is no VLyard API's")
    return ok(f"{url} answers")


def _readiness(url: str) -> Finding:
    reply = _get(url, "/readyz")
    if reply.is_success:
        return ok("the API reaches its database and its store")
    try:
        said = str(reply.json()["detail"])
    except (ValueError, KeyError, TypeError):
        said = f"status {reply.status_code}"
    return broken(f"the API cannot serve: {said}", "run `vlyard doctor` on the API's machine, with its settings")


def _version(url: str) -> Finding:
    """The API tells its version in its description alone."""
    reply = _get(url, "/openapi.json")
    try:
        told: Any = reply.json()["info"]["version"]
    except (ValueError, KeyError, TypeError):
        return skipped("the API does not tell its version")
    if told != vlyard.__version__:
        return broken(
            f"the API is {told}, this client is {vlyard.__version__}", f"pip install . in a checkout of VLyard {told}"
        )
    return ok(f"the API is {told}, as this client")


def _key() -> Finding:
    with Client(timeout=_REQUEST) as client:
        me = client.me()
    return ok(f"key {me.prefix} of team {me.team.name}, {me.role}")


def _workers() -> Finding:
    """Every kind that a team may submit needs a living worker, and none may have failed its self-test."""
    with Client(timeout=_REQUEST) as client:
        staff = [worker for pool in client.pools() for worker in pool.workers]
    faulty = [
        f"{each.name}: {self_test_text(each)}" for each in staff if each.self_test and not each.self_test.get("ok")
    ]
    if faulty:
        return broken("; ".join(faulty), "mend what the self-test names, and start the worker again")
    able = {kind for each in staff if not each.draining for kind in each.kinds}
    idle = [kind for kind in KINDS.values() if not kind.admin_only and kind.name not in able]
    if idle:
        devices = dict.fromkeys(f"vlyard worker --device {kind.device}" for kind in idle)
        return broken(f"nobody runs {', '.join(kind.name for kind in idle)} jobs", f"start {' and '.join(devices)}")
    return ok(f"{len(staff)} alive; every kind has one that runs it")
