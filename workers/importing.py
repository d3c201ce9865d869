"""The import job: weights from a hub, the operator's disk or an artefact, looked at as a whole and stored once.

A download goes into the machine's cache of models, where the next attempt on this machine goes on with it.
"""

from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from control.settings import Settings, load_settings
from vlyard.jobs.importing import MODEL, ImportResult, ImportSpec
from vlyard.trees import read_manifest
from workers.context import Context
from workers.models import brought, origin
from workers.qwen.inspection import compare_sums, inspect

_SHOWN = 20  # files that a line of the log names


def run(spec: ImportSpec, context: Context) -> ImportResult:
    """Bring weights in. Raises `InvalidInput` with all that is wrong with them, `RefusedArchive`, `Unavailable`."""
    return bring_in(spec, context, load_settings())


def bring_in(spec: ImportSpec, context: Context, settings: Settings) -> ImportResult:
    """The same with these settings."""
    context.progress(None, "fetching the weights")
    with brought(spec, context, settings) as source:
        context.progress(None, "looking at the headers of all weights")
        found = inspect(source.folder)
        if found.left_out:
            context.log(f"not part of the model, and left out: {_some(found.left_out)}")
        context.progress(None, "storing the model")
        artefact = context.publish_tree(_gathered(source.folder, found.files, context.folder / MODEL), MODEL)
        stored, files = _stored(context)
        compare_sums(source.folder, files)
    return ImportResult(
        base=origin(spec.source, source),
        architecture=found.architecture,
        parameters=found.parameters,
        dtype=found.dtype,
        bytes=stored,
        files=files,
        artefacts={MODEL: artefact},
    )


def _gathered(folder: Path, names: Iterable[str], target: Path) -> Path:
    """A folder with links to just these files: a tree takes links for what they lead to."""
    target.mkdir()
    for name in names:
        (target / name).symlink_to((folder / name).resolve())
    return target


def _stored(context: Context) -> tuple[int, dict[str, str]]:
    """The bytes of what was published last, and the digests of its files, as the store has them."""
    tree = context.published[-1]
    listing = context.folder / f"{uuid4()}.json"
    context.store.fetch(tree, listing)
    return tree.bytes, {file.path: file.sha256 for file in read_manifest(listing.read_bytes())}


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return f"{', '.join(every[:_SHOWN])}{more}"
