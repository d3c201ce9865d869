"""Where a version of a model comes from and what became of it, and two of them side by side. Knows no server."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from vlyard.jobs.state import State
from vlyard.models import Model

# What a step tells of its job's result: the name of each figure, and where it stands.
_FIGURES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "training": {"loss": ("loss",), "held_out_loss": ("held_out_loss",), "f1": ("scores", "f1")},
    "evaluation": {
        "samples": ("samples",),
        "precision": ("at_50", "precision", "value"),
        "recall": ("at_50", "recall", "value"),
        "f1": ("at_50", "f1", "value"),
        "f1_at_75": ("at_75", "f1", "value"),
        "mean_iou": ("mean_iou", "value"),
        "map_50": ("map_50",),
        "map_50_95": ("map_50_95",),
        "parse_failures": ("parse_failures",),
    },
    "verification": {
        "samples": ("samples",),
        "logits_difference": ("logits_difference",),
        "same_answers": ("same_answers",),
        "mean_iou": ("mean_iou",),
    },
    "conversion": {"samples": ("samples",)},
}
_UNTOLD = frozenset({"files"})  # parts of a manifest that are digests, which always differ


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class Piece(_View):
    """An artefact of the history."""

    artefact: UUID
    name: str
    bytes: int
    job: UUID | None = Field(None, description="The job that made it; null where it was uploaded.")


class Step(_View):
    """A job of the history."""

    job: UUID
    kind: str
    state: State
    finished_at: datetime | None = None
    dataset: UUID | None = Field(None, description="What it read, where it read a dataset.")
    model: str | None = Field(None, description="The version that it made, where that is still there.")
    figures: dict[str, float] = Field({}, description="The most telling numbers of its result.")


class Lineage(_View):
    """What a version was made of, and what was done with it. Your team's jobs and artefacts alone."""

    id: str
    base: str = Field(description="The model that learned, or that was taken out or brought in.")
    base_model: str | None = Field(None, description="The version that it was made of, where it was one here.")
    made_by: Step | None = Field(None, description="The training, export or import.")
    checked_by: Step | None = Field(None, description="The check that the training waited for.")
    dataset: Piece | None = Field(None, description="What the training learned from.")
    converted_by: Step | None = Field(None, description="The conversion that made it.")
    sources: tuple[Piece, ...] = Field((), description="What that conversion read.")
    uses: tuple[Step, ...] = Field((), description="What was done with it, newest first.")
    next_cursor: str | None = Field(None, description="Fetches the `uses` after these; null at the end.")


class Difference(_View):
    """A value that two models do not share; null where one has none."""

    field: str
    left: Any = None
    right: Any = None


class Measured(_View):
    """The newest evaluations of two models that asked the same questions."""

    dataset: UUID
    left: Step
    right: Step


class ModelComparison(_View):
    """Two versions side by side."""

    left: Model
    right: Model
    spec: tuple[Difference, ...] = Field(description="What differs in the specifications of the jobs that made them.")
    manifest: tuple[Difference, ...] = Field(description="What differs in how they came to be: losses, sizes, scores.")
    evaluation: Measured | None = Field(None, description="Null where no dataset was asked of both in the same way.")


def figures_of(kind: str, result: Mapping[str, Any]) -> dict[str, float]:
    """The most telling numbers of a job's result, as JSON."""
    found = {name: _at(result, path) for name, path in _FIGURES.get(kind, {}).items()}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The fields, those within others with a dot, in which two JSON objects differ."""
    old, new = dict(_flat(left)), dict(_flat(right))
    return tuple(
        Difference(field=field, left=old.get(field), right=new.get(field))
        for field in dict.fromkeys((*old, *new))
        if old.get(field) != new.get(field)
    )


def _flat(value: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for name, each in value.items():
        if isinstance(each, Mapping) and name not in _UNTOLD:
            yield from _flat(each, f"{within}{name}.")
        elif name not in _UNTOLD:
            yield within + name, each


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
