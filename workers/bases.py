"""Whether an adapter was tuned on the model that it is put on, as far as both say of themselves. It reads no weights.

The same base has many names: it is fetched from a hub, copied, imported, exported. Another name alone is worth a note;
only what cannot be the base is refused.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from vlyard.errors import Complaint, InvalidInput
from vlyard.jobs.generation import ModelVersion
from vlyard.jobs.importing import HUB
from workers.qwen.manifest import Manifest, read_manifest

DEMO = "demo"  # the name of the model that comes with the product
UNTRAINED = "untrained"  # the demo's architecture, which has learned nothing
_OURS = frozenset({DEMO, UNTRAINED})


def compare_bases(adapter: Path, model: str, folder: Path, content: Callable[[str], str]) -> tuple[str, ...]:
    """Compare the base that the adapter's manifest names with the asked model, which is in the folder.

    `model` is its name, of a hub's model with its revision. `content` says of a name what it stands for, where that is
    known. Returns notes. Raises `InvalidInput` where the model is certainly another one.
    """
    own = read_manifest(adapter)
    if own is None or content(own.base) == content(model):
        return ()
    theirs = read_manifest(folder)
    if theirs == own:
        fix = f"leave `adapter` out, or give its base, {own.base}, as `model`"
        raise _refused(f"the model {model} has this adapter in it already", fix)
    if _is_tuned_on(theirs, own.base):
        raise _another(own.base, f"{model}, which was itself tuned on that")
    if {own.base, model} == _OURS or _are_two_of_one_owner(own.base, model):
        raise _another(own.base, model)
    return (f"the adapter was tuned on {own.base}, and was put on {model}",)


def as_id(name: str) -> UUID | None:
    """The artefact that a model's name is; None where it is another name."""
    with suppress(ValueError):
        return UUID(name)
    return None


def _is_tuned_on(manifest: Manifest | None, base: str) -> bool:
    """Whether what the manifest belongs to was made of the base, by a name that always stands for the same."""
    return manifest is not None and manifest.base == base and _always_the_same(base)


def _always_the_same(name: str) -> bool:
    """Whether a name stands for one content: a folder's may be given to another model."""
    return name in _OURS or name.startswith(HUB) or ModelVersion.read(name) is not None or as_id(name) is not None


def _are_two_of_one_owner(base: str, model: str) -> bool:
    """Whether a hub has them as two models of one owner: not a copy by somebody else, nor a variant such as `-FP8`.

    The same commit is the same model also where its repository was renamed.
    """
    if not (base.startswith(HUB) and model.startswith(HUB)):
        return False
    (ours, _, commit), (theirs, _, other) = (name.removeprefix(HUB).casefold().partition("@") for name in (base, model))
    (owner, _, short), (other_owner, _, other_short) = ours.partition("/"), theirs.partition("/")
    alike = short.startswith(other_short) or other_short.startswith(short)
    return owner == other_owner and not alike and commit != other


def _another(base: str, model: str) -> InvalidInput:
    fix = f"give {base} as `model`, or an adapter that was tuned on the model"
    return _refused(f"the adapter was tuned on {base}, and not on {model}", fix)


def _refused(what: str, fix: str) -> InvalidInput:
    return InvalidInput("The adapter cannot be used", [Complaint("/spec/adapter", what, fix)])
