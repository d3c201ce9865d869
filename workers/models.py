"""From the model that a job names to folders on this machine: the demo, the operator's, a hub's, or an artefact's.

A model that a training made may be an adapter alone: its manifest names the base that it belongs on.

It knows no weights. A name is never a path: what a job can name is listed, or fetched into the machine's cache.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from control.settings import Settings
from vlyard.errors import Complaint, InvalidInput, Unavailable
from vlyard.files import ArtefactKind, Stored
from vlyard.formats.archive import unpack
from vlyard.jobs.generation import ModelVersion
from vlyard.jobs.importing import HUB, ImportSpec
from workers.bases import DEMO, UNTRAINED, as_id, compare_bases
from workers.context import Context
from workers.hub import Hub, Progress, Snapshot, download, look_up
from workers.model_cache import ModelCache
from workers.qwen import adapters, checkpoint
from workers.qwen.loading import DEMO_FOLDER
from workers.qwen.manifest import MANIFEST, read_manifest
from workers.qwen.warm import Source
from workers.trees import fetch_tree

_FRESH_SECONDS = 3600.0  # for so long, what a branch or tag of a hub pointed to is believed
_COMMIT = re.compile("[0-9a-f]{40}")  # always stands for the same content
_MARKS = (checkpoint.CONFIG, adapters.CONFIG)
_MB = 1e6
_TELL_SECONDS = 1.0


@contextmanager
def resolve(
    model: UUID | str, adapter: UUID | None, gpus: int, context: Context, settings: Settings
) -> Iterator[Source]:
    """The folders of a model and of its adapter, which stay on the disk for as long as the block lasts.

    `model` is `demo`, `untrained`, the name of a folder in `models_dir`, `hub:owner/name` with an optional
    `@revision`, `team/name:version`, or an input artefact of the job, as `adapter` is: a tree or an archive. It may
    be an adapter that a training made: its manifest names its base, in one of the same ways. Raises `InvalidInput`
    that lists what there is, or where the adapter is certainly another model's, `RefusedArchive`, and `Unavailable`.
    """
    with ExitStack() as stack:
        folder, revision = stack.enter_context(_model(str(model), context, settings))
        put_on, notes = None, tuple[str, ...]()
        if adapter is not None:
            if _is_adapter(folder):
                raise _refused("/spec/adapter", f"the model {model} is an adapter itself", "give its base as `model`")
            put_on = stack.enter_context(_artefact(adapter, "/spec/adapter", context, settings))
            asked = origin(model, Source(folder, revision=revision))
            notes = compare_bases(put_on, asked, folder, partial(_content, context=context))
        elif _is_adapter(folder):
            put_on = folder
            folder, revision = stack.enter_context(_base(folder, str(model), context, settings))
        yield Source(folder, put_on, gpus, revision, notes=notes)


@contextmanager
def whole(model: UUID | str, context: Context, settings: Settings) -> Iterator[Source]:
    """The folder of a model that has all its weights, for as long as the block lasts. Raises as `resolve`."""
    with _model(str(model), context, settings) as (folder, revision):
        if _is_adapter(folder):
            raise _refused("/spec/model", f"{model} is an adapter", "train on its base, or export it merged first")
        yield Source(folder, revision=revision)


def origin(model: UUID | str, source: Source) -> str:
    """The model's name, by which it is found again: of a hub's model with the revision that it was.

    That of an adapter's base is no part of the adapter's name.
    """
    name = str(model)
    if source.revision is None or not name.startswith(HUB):
        return name
    return f"{name.partition('@')[0]}@{source.revision}"


@contextmanager
def brought(spec: ImportSpec, context: Context, settings: Settings) -> Iterator[Source]:
    """The folder with the weights that an import names, for as long as the block lasts.

    A hub is always asked what it has now. Raises as `resolve`, about `/spec/source`.
    """
    where, source = "/spec/source", str(spec.source)
    artefact = as_id(source)
    if ModelVersion.read(source):
        what = f"{source} is a version of a model here already"
        raise _refused(where, what, "use it by that name, or name where its weights came from")
    if source.startswith(HUB):
        with _from_hub(source.removeprefix(HUB), hub_of(settings, spec.hub), context, settings, believed=0) as found:
            yield Source(found[0], revision=found[1])
    elif artefact is not None:
        with _artefact(artefact, where, context, settings) as folder:
            yield Source(folder)
    elif source in {DEMO, UNTRAINED}:
        with _model(source, context, settings) as found:
            yield Source(found[0])
    else:
        yield Source(_named(source, settings.models_dir, where))


@contextmanager
def _base(adapter: Path, name: str, context: Context, settings: Settings) -> Iterator[tuple[Path, str | None]]:
    """The base of an adapter that was given as the model, as its manifest has it."""
    manifest = read_manifest(adapter)
    if manifest is None:
        what = f"{name} is an adapter, and no {MANIFEST} in it says what its base is"
        raise _refused("/spec/model", what, "give its base as `model`, and this as `adapter`")
    if (base := as_id(manifest.base)) is not None and base not in context.inputs:
        what = f"{name} is an adapter on the artefact {base}, which the job does not have"
        raise _refused("/spec/model", what, "give that as `model`, and this as `adapter`")
    with _model(manifest.base, context, settings) as (folder, revision):
        if _is_adapter(folder):
            what = f"{name} is an adapter, and so is its base, {manifest.base}"
            raise _refused("/spec/model", what, "export the base merged, and give that and the adapter")
        yield folder, revision


@contextmanager
def _model(model: str, context: Context, settings: Settings) -> Iterator[tuple[Path, str | None]]:
    artefact = as_id(model)
    if ModelVersion.read(model):
        artefact = _registered(model, context)
    if model == DEMO:
        yield DEMO_FOLDER, None
    elif model == UNTRAINED:
        with _untrained(context, settings) as folder:
            yield folder, None
    elif model.startswith(HUB):
        with _from_hub(model.removeprefix(HUB), hub_of(settings), context, settings) as found:
            yield found
    elif artefact is not None:
        with _artefact(artefact, "/spec/model", context, settings) as folder:
            yield folder, None
    else:
        yield _named(model, settings.models_dir, "/spec/model"), None


@contextmanager
def _untrained(context: Context, settings: Settings) -> Iterator[Path]:
    """The demo's architecture with random weights, made when it is first asked for."""
    from workers.qwen.demo import architecture  # needed by few

    def fill(folder: Path) -> None:
        architecture.build_untrained(folder / UNTRAINED, seed=0, shape=architecture.DEMO)

    key = _key(UNTRAINED, version("vlyard"), repr(architecture.DEMO))
    with cache_of(settings).entry(key, 0, fill, context.check) as entry:
        yield entry / UNTRAINED


def _registered(name: str, context: Context) -> UUID:
    artefact = context.named.get(name)
    if artefact is None:
        raise _refused("/spec/model", f"the job names no model {name}", "name the version that the job is to use")
    return artefact


def _is_adapter(folder: Path) -> bool:
    return (folder / adapters.CONFIG).is_file() and not (folder / checkpoint.CONFIG).is_file()


def _named(name: str, models_dir: Path | None, where: str) -> Path:
    folders = sorted(models_dir.iterdir()) if models_dir and models_dir.is_dir() else []
    known = {path.name: path for path in folders if path.is_dir() and not path.name.startswith(".")}
    if name not in known:
        others = f"{HUB}<owner>/<name>, <team>/<name>:<version> and artefacts can be named, too"
        has = f"it has {', '.join([DEMO, UNTRAINED, *known])}; {others}"
        what = f"this worker has no model {name!r}"
        raise InvalidInput("There is no such model", [Complaint(where, what, has)])
    return known[name]


def cache_of(settings: Settings) -> ModelCache:
    """The machine's cache of models, by default in the user's cache folder as the XDG specification has it."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlyard"
    return ModelCache((settings.cache_dir or usual) / "models", settings.cache_bytes)


# --- artefacts ------------------------------------------------------------------------------------------------


@contextmanager
def _artefact(artefact: UUID, where: str, context: Context, settings: Settings) -> Iterator[Path]:
    stored = context.inputs.get(artefact)
    if stored is None:  # the cache is all teams', so this decides who may use what is in it
        raise InvalidInput(complaints=[Complaint(where, f"the job names no artefact {artefact} as its input")])

    def fill(folder: Path) -> None:
        context.progress(None, f"fetching {stored.name}")
        _bring(stored, folder / _plain(stored.name), context)

    key = _key("artefact", stored.sha256, stored.name)
    # An archive lies beside what comes out of it until the end. Weights do not become smaller when they are packed.
    room = stored.bytes if stored.kind is ArtefactKind.TREE else 2 * stored.bytes
    with cache_of(settings).entry(key, room, fill, context.check) as entry:
        yield _inside(entry)


def _bring(stored: Stored, folder: Path, context: Context) -> None:
    if stored.kind is ArtefactKind.TREE:
        if not folder.is_dir():  # it is there only when it is whole
            fetch_tree(context.store, stored, folder, context.check, _heard(stored, context))
        return
    shutil.rmtree(folder.parent)  # what a process that died left there
    folder.parent.mkdir()
    archive = folder.with_name(f".{folder.name}.archive")
    context.store.fetch_each({archive: stored}, _heard(stored, context))
    unpack(archive, folder)
    archive.unlink()


def _heard(stored: Stored, context: Context) -> Callable[[int], None]:
    """What tells how far an artefact's fetching is, once a second at most, and looks for a stop each time."""
    began = told_at = time.monotonic()

    def hear(there: int) -> None:
        nonlocal told_at
        context.check()
        now = time.monotonic()
        if now - told_at >= _TELL_SECONDS:
            told_at = now
            _tell(context, stored.name, Progress(there, stored.bytes, there / (now - began)))

    return hear


def _inside(folder: Path) -> Path:
    """The folder that holds the model: people pack a folder as often as what is in it."""
    while not any((folder / mark).is_file() for mark in _MARKS):
        below = [path for path in folder.iterdir() if path.is_dir()]
        if len(below) != 1:
            break
        (folder,) = below
    return folder


def _content(name: str, context: Context) -> str:
    """What a model's name stands for, as far as the job knows: two artefacts may hold the same."""
    id = context.named.get(name) or as_id(name)
    stored = context.inputs.get(id) if id else None
    return stored.sha256 if stored else str(id or name)


# --- hubs -----------------------------------------------------------------------------------------------------


class _Known(NamedTuple):
    """What a name of a hub stood for when it was looked up."""

    key: str
    revision: str
    at: float  # seconds since 1970


def hub_of(settings: Settings, kind: str | None = None) -> Hub:
    """The operator's hub, or the one of that kind: each has its own mirror and its own token."""
    if kind in {None, settings.hub}:
        return Hub(settings.hub, settings.hub_endpoint, settings.hub_token)
    return Hub(str(kind), settings.other_hub_endpoint, settings.other_hub_token, "VLYARD_OTHER_HUB_TOKEN")


@contextmanager
def _from_hub(
    name: str, hub: Hub, context: Context, settings: Settings, believed: float = _FRESH_SECONDS
) -> Iterator[tuple[Path, str]]:
    """`believed`: for how many seconds what a branch pointed to is; 0: it is asked, and an absent hub is an outage."""
    repository, _, revision = name.partition("@")
    cache = cache_of(settings)
    note = cache.folder.parent / "hub" / f"{_key(hub.kind, hub.url, name)}.json"
    known = _read_note(note)
    usable = known is not None and cache.has(known.key)
    snapshot = None
    if known is None or not usable or not (_COMMIT.fullmatch(revision) or abs(time.time() - known.at) < believed):
        snapshot = _look_up(hub, repository, revision, context, usable=usable and believed > 0)
    if snapshot is not None:
        known = _Known(_key("hub", snapshot.digest), snapshot.revision, time.time())
        _write_note(note, known)
    assert known is not None  # it was read, or looked up

    def fill(folder: Path) -> None:
        if snapshot is None:
            raise Unavailable(f"{repository} left the cache a moment ago")
        download(hub, snapshot, folder / _plain(repository), partial(_tell, context, repository), context.check)

    with cache.entry(known.key, snapshot.bytes if snapshot else 0, fill, context.check) as entry:
        yield _inside(entry), known.revision


def _look_up(hub: Hub, repository: str, revision: str, context: Context, *, usable: bool) -> Snapshot | None:
    """What the hub has now; None where it is away and what was fetched earlier can be used."""
    try:
        return look_up(hub, repository, revision)
    except Unavailable as error:
        if not usable:
            raise
        context.log(f"{error}; using what was fetched earlier")
        return None


def _tell(context: Context, repository: str, far: Progress) -> None:
    context.progress(None, f"fetching {repository}: {far.bytes / _MB:.0f} of {far.of / _MB:.0f} MB", far.rate, "bytes")


def _read_note(path: Path) -> _Known | None:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return _Known(str(content["key"]), str(content["revision"]), float(content["at"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _write_note(path: Path, known: _Known) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = path.with_name(f"{uuid4()}.new")
    written.write_text(json.dumps(known._asdict()), encoding="utf-8")
    written.rename(path)


def _key(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:40]


def _plain(name: str) -> str:
    """A name for a folder, of a name that somebody gave."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name.rpartition("/")[2]).lstrip(".")[:80] or "model"


def _refused(where: str, what: str, fix: str) -> InvalidInput:
    return InvalidInput("The model cannot be used", [Complaint(where, what, fix)])
