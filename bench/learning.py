"""What the demo's training teaches: how well a model that knew nothing finds shapes afterwards, on another seed.

The baseline is 1, everything found exactly. Beside the model that learned stand two that must not find things: the one
that knows nothing yet, and one that learned as long from the same pictures with the answers dealt out anew. What that
one knows is what answers look like: its boxes lie where boxes are likely, which is chance. It takes ten
minutes, and is measured where it is asked for: `make bench ONLY=learning`.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import torch
from transformers import Qwen3VLForConditionalGeneration

from bench.figure import Figure
from bench.stage import Stage
from control.stack.demo import BY_COLOUR, PICTURES, SEED, SIDE, STEPS, training_of
from vlyard.demo.shapes import draw_splits
from vlyard.formats.convert import convert
from vlyard.jobs.conversion import ConversionOptions
from vlyard.jobs.training import Scores
from workers.qwen.demo.architecture import DEMO, build_untrained
from workers.qwen.training.asking import score_held_out
from workers.qwen.training.learning import learn
from workers.qwen.training.plan import Listener, Plan
from workers.qwen.training.preparing import open_processor, prepare

_BAR, _CHANCE = 0.6, 0.35  # mean IoU: at least of the one that learned, and at most of the other two


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
        before = _untrained(folder).mean_iou
        learned, dealt = (_taught(folder, data).mean_iou for data in ("data", "dealt"))
    torch.set_num_threads(threads)
    told, exact = f"mean IoU on {PICTURES[1]} unseen pictures", "everything found exactly"
    return [
        Figure(f"{told} after {STEPS} steps", "", "more", learned, exact, 1.0, _BAR),
        Figure(f"{told} of the untrained model", "", "less", before, exact, 1.0, _CHANCE),
        Figure(f"{told} after {STEPS} steps with shuffled answers", "", "less", dealt, exact, 1.0, _CHANCE),
    ]


def _deal_answers_anew(file: Path) -> None:
    samples = json.loads(file.read_text(encoding="utf-8"))
    answers = [sample["messages"][-1] for sample in samples]
    random.Random(1).shuffle(answers)
    for sample, answer in zip(samples, answers, strict=True):
        sample["messages"][-1] = answer
    file.write_text(json.dumps(samples), encoding="utf-8")


def _untrained(folder: Path) -> Scores:
    """Of the base as it was made, before any step."""
    processor = open_processor(folder / "base")
    samples = prepare(training_of(uuid4(), STEPS), folder / "data", processor).held_out
    reader: Any = Qwen3VLForConditionalGeneration
    return score_held_out(reader.from_pretrained(folder / "base"), processor, samples, PICTURES[1])


def _taught(folder: Path, data: str) -> Scores:
    spec = training_of(uuid4(), STEPS).model_copy(
        update={"evaluate": "end", "evaluate_samples": PICTURES[1], "checkpoint_steps": STEPS + 1}
    )
    with TemporaryDirectory(dir=folder) as output:
        plan = Plan(spec=spec, base=folder / "base", dataset=folder / data, output=Path(output))
        learned = learn(plan, Listener(_unheard, saved=_unheard, say=_unheard, stopping=lambda: False))
    assert learned.scores is not None
    return learned.scores


def _unheard(*_: object) -> None:
    """Nobody wants to know."""
