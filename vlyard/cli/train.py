"""`vlyard train`: from a folder of labels to a tuned model and its score, as four jobs that feed each other."""

import inspect
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import typer
from rich.console import Console
from rich.table import Table

from vlyard.cli.jobs import AsJson
from vlyard.cli.kinds import taking
from vlyard.cli.options import collected, parameters
from vlyard.cli.pipeline import fail_if_any_did, followed
from vlyard.cli.sending import located, uploaded
from vlyard.client import Client
from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.converted import open_converted
from vlyard.jobs.conversion import DEFAULT_PROMPT, ConversionSpec
from vlyard.jobs.evaluation import AtIou, EvaluationResult, EvaluationSpec
from vlyard.jobs.spec import Reference, Result, Spec
from vlyard.jobs.training import TrainingResult, TrainingSpec
from vlyard.jobs.training_check import TrainingCheckResult, TrainingCheckSpec
from vlyard.jobs.view import Entry

_HOLD_OUT = 0.1
_OURS = ("kind", "dataset", "model", "checked")  # what the command says itself
_CONVERT, _CHECK, _TRAIN, _EVALUATE = "convert", "check", "train", "evaluate"  # the entries' names


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("train")(taking(train, [*_OWN, *parameters(TrainingSpec, *_OURS)]))


def _train(
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="A folder or archive of labelled pictures, or one that was converted."),
    ],
    *,
    base: Annotated[str, typer.Option(help="The model to tune, by name.")] = "demo",
    hold_out: Annotated[
        float | None,
        typer.Option(
            help=f"Of labels with one split only, the share that is held out and measured on; {_HOLD_OUT} if not "
            "given. Refused with data that is converted already."
        ),
    ] = None,
    pool: Annotated[str, typer.Option(help="The pool of workers that shall run the jobs.")] = "default",
    as_json: AsJson = False,
) -> None:
    """The options that are not the training's own."""


_OWN = tuple(inspect.signature(_train).parameters.values())


def train(**values: Any) -> None:
    """Upload, convert, check, train and evaluate; print the score, and how to ask the model."""
    path = located(values["data"], "DATA", fix="name a folder or an archive of labelled pictures")
    splits = _splits(path)
    converted = splits is not None
    # Refused before anything is uploaded, where it is wrong.
    expect_held_out(entries(values, uuid4(), converted=converted), splits)
    with Client() as client:
        source = uploaded(client, [path])[path]
        wanted = entries(values, source, converted=converted)
        jobs = followed(client, wanted)
        if values["as_json"]:
            for job in jobs:
                print(job.model_dump_json())
        fail_if_any_did(jobs)
        results = {entry.name: client.result(job) for entry, job in zip(wanted, jobs, strict=True)}
    if not values["as_json"]:
        _tell(wanted, results)


def _tell(wanted: Sequence[Entry], results: Mapping[str | None, Result]) -> None:
    checked, trained, measured = results[_CHECK], results[_TRAIN], results[_EVALUATE]
    assert isinstance(checked, TrainingCheckResult)
    assert isinstance(trained, TrainingResult)
    assert isinstance(measured, EvaluationResult)
    console = Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 120)
    for warning in checked.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)
    console.print(score(measured))
    console.print(overall(measured, _training(wanted).held_out), soft_wrap=True)
    asking = ["vlyard", "inference", "--model", str(trained.model), "--image", "PICTURE"]
    line = shlex.join([*asking, "--prompt", checked.prompt or DEFAULT_PROMPT])
    console.print(f"\nThe model is {trained.model}. Ask it:\n  {line}", soft_wrap=True)  # to be copied


def entries(values: Mapping[str, Any], source: UUID, *, converted: bool) -> list[Entry]:
    """The jobs, in the order in which they feed each other. Raises `InvalidInput` that names the options."""
    if converted and values["hold_out"] is not None:
        what, fix = "the dataset is converted already, and keeps its splits", "leave it out, or give the labels"
        raise InvalidInput("The options do not fit", [Complaint("--hold-out", what, fix)])
    dataset: UUID = source if converted else Reference(f"ref:{_CONVERT}/dataset")
    own = {name: values.get(name) for name in TrainingSpec.model_fields if name not in _OURS}
    named = {"dataset": dataset, "model": values["base"]}
    training = collected(TrainingSpec, {**own, **named, "checked": Reference(f"ref:{_CHECK}/survey")})
    splits = (training.held_out,) if training.held_out else ()
    # The evaluation asks held-out questions, whatever the training does: where there are none the check fails.
    asked = {"evaluate": "end"} if splits else {}
    same = training.model_dump(include=set(TrainingCheckSpec.model_fields) - {"kind"})
    check = TrainingCheckSpec(**{**same, **asked})
    evaluation = EvaluationSpec(dataset=dataset, splits=splits, model=Reference(f"ref:{_TRAIN}/model"))
    jobs: list[tuple[str, Spec]] = [(_CHECK, check), (_TRAIN, training), (_EVALUATE, evaluation)]
    if not converted:
        share = _HOLD_OUT if values["hold_out"] is None else values["hold_out"]
        conversion = collected(ConversionSpec, {"source": source, "hold_out": share})
        jobs.insert(0, (_CONVERT, conversion))
    return [Entry(name=name, spec=spec, pool=values["pool"]) for name, spec in jobs]


def expect_held_out(wanted: Sequence[Entry], splits: Collection[str] | None) -> None:
    """Raise `InvalidInput` where a converted dataset with these splits has nothing to be measured on.

    What a conversion will make of labels, None here, is not known before.
    """
    held_out = _training(wanted).held_out
    if splits is None or held_out is None or held_out in splits:
        return
    others = [split for split in splits if split not in _training(wanted).splits]
    fix = f"say --held-out {others[0]}" if others else f"convert it with --hold-out {_HOLD_OUT}, or give the labels"
    what = f"the dataset has no split {held_out!r} to be measured on: it has {', '.join(splits)}"
    raise InvalidInput("Nothing is held out", [Complaint("--held-out", what, fix)])


def score(measured: EvaluationResult) -> Table:
    """The primary figures, with their confidence intervals where there are any."""
    table = Table("IOU", "PRECISION", "RECALL", "F1", box=None, pad_edge=False)
    for at in (measured.at_50, measured.at_75):
        table.add_row(f"{at.iou:.2f}", *(_said(at, name) for name in ("precision", "recall", "f1")))
    return table


def overall(measured: EvaluationResult, held_out: str | None) -> str:
    """The other figures in a line, and what all were measured on."""
    rate = "" if measured.map_50 is None else f", mAP@50 {measured.map_50:.3f}"
    of = f"held-out questions, of the split {held_out}" if held_out else "questions, none of which was held out"
    return f"mean IoU {measured.mean_iou.value:.3f}{rate}, over {measured.samples} {of}"


def _said(at: AtIou, name: str) -> str:
    figure = getattr(at, name)
    spread = "" if figure.low is None else f" [{figure.low:.3f}, {figure.high:.3f}]"
    return f"{figure.value:.3f}{spread}"


def _training(wanted: Sequence[Entry]) -> TrainingSpec:
    return next(entry.spec for entry in wanted if isinstance(entry.spec, TrainingSpec))


def _splits(path: Path) -> Collection[str] | None:
    """Those of what a conversion made; None where it is something else."""
    try:
        head = open_converted(path).head
    except InvalidInput:
        return None
    return dict.fromkeys(str(part["split"]) for part in head.get("data_sets", {}).values())
