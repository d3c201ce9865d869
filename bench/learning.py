"""What the demo's training teaches: how well a model that knew nothing finds shapes afterwards, on another seed.

The baseline of the first figure is 1, everything found exactly. Those of the others are the model after one step, and
one that learned as long from the same pictures with the answers dealt out anew: what it knows then is what answers look
like, and that is chance. It takes ten minutes, and is measured where it is asked for: `make bench ONLY=learning`.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import torch

from bench.figure import Figure
from bench.stage import Stage
from control.stack.demo import BY_COLOUR, PICTURES, SEED, SIDE, STEPS, training_of
from vlyard.demo.shapes import draw_splits
from vlyard.formats.convert import convert
from vlyard.jobs.conversion import ConversionOptions
from vlyard.jobs.training import Scores
from workers.qwen.demo.architecture import DEMO, build_untrained
from workers.qwen.training.learning import learn
from workers.qwen.training.plan import Listener, Plan

_BAR = 0.6


def measure(stage: Stage) -> Sequence[Figure]:  # noqa: ARG001 - no server is needed
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the worker has it
    with TemporaryDirectory() as name:
        folder = Path(name)
        draw_splits(folder / "drawn", *PICTURES, SEED, side=SIDE)
        for data in ("data", "dealt"):
            convert(folder / "drawn", folder / data, ConversionOptions(rename=BY_COLOUR), lambda *_: None)
        _deal_answers_anew(folder / "dealt" / "grounding.json")
        build_untrained(folder / "base", seed=0, shape=DEMO)
        learned, before, dealt = (
            _scores(folder, data, steps).mean_iou for data, steps in (("data", STEPS), ("data", 1), ("dealt", STEPS))
        )
    torch.set_num_threads(threads)
    told = f"mean IoU on {PICTURES[1]} unseen pictures after {STEPS} steps"
    return [
        Figure(told, "", "more", learned, "everything found exactly", 1.0, _BAR),
        Figure(told, "", "more", learned, "after one step", before),
        Figure(told, "", "more", learned, "the answers dealt out anew", dealt),
    ]


def _deal_answers_anew(file: Path) -> None:
    samples = json.loads(file.read_text(encoding="utf-8"))
    answers = [sample["messages"][-1] for sample in samples]
    random.Random(1).shuffle(answers)
    for sample, answer in zip(samples, answers, strict=True):
        sample["messages"][-1] = answer
    file.write_text(json.dumps(samples), encoding="utf-8")


def _scores(folder: Path, data: str, steps: int) -> Scores:
    spec = training_of(uuid4(), steps).model_copy(
        update={"evaluate": "end", "evaluate_samples": PICTURES[1], "checkpoint_steps": steps + 1}
    )
    with TemporaryDirectory(dir=folder) as output:
        plan = Plan(spec=spec, base=folder / "base", dataset=folder / data, output=Path(output))
        learned = learn(plan, Listener(_unheard, saved=_unheard, say=_unheard, stopping=lambda: False))
    assert learned.scores is not None
    return learned.scores


def _unheard(*_: object) -> None:
    """Nobody wants to know."""
