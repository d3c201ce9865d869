"""What a tuned model says of itself: `vlyard.json` beside its weights. It knows no registry.

What was trained and what is asked must see pictures the same way, so the pixel budget, the chat template and the
prompt travel with the weights and are used again by whoever asks.
"""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from vlyard.errors import Complaint, InvalidInput
from vlyard.jobs.learning import LearningSpec

S = TypeVar("S", bound=LearningSpec)

MANIFEST = "vlyard.json"


class Manifest(BaseModel):
    """How a model came to be. `base` is what a job can name: `demo`, `hub:owner/name@commit`, or an artefact's id."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = 1
    base: str
    method: str  # full, lora or qlora
    prompt: str | None  # the first sample's question
    system: str | None
    chat_template: str | None  # Jinja; None: the base's own
    chat_template_sha256: str | None = None  # of the one that was used, also where it is the base's own
    min_pixels: int
    max_pixels: int
    dataset: str  # the artefact that was learned
    dataset_sha256: str
    spec: dict[str, object]  # the training's
    metrics: dict[str, object]
    libraries: dict[str, str]  # names and versions
    seed: int


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put it beside the weights."""
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")


def as_its_base(spec: S, folder: Path) -> S:
    """What a specification leaves open, as it was when the base in this folder was tuned itself, if it was."""
    own = read_manifest(folder)
    if own is None:
        return spec
    left: dict[str, object] = {
        "system": spec.system or own.system,
        "chat_template": spec.chat_template or own.chat_template,
    }
    if spec.min_pixels is None and spec.max_pixels is None:
        left |= {"min_pixels": own.min_pixels, "max_pixels": own.max_pixels}
    return spec.model_copy(update=left)


def read_manifest(folder: Path) -> Manifest | None:
    """What the folder's model says of itself; None where it says nothing. Raises `InvalidInput`."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        what = f"{error.error_count()} of its fields cannot be read"
        raise InvalidInput(
            "The model cannot be used", [Complaint(f"{folder.name}/{MANIFEST}", what, "train it again")]
        ) from error
