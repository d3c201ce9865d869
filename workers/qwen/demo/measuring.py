"""How well a model finds the shapes of the demo's pictures. It knows no training."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from vlyard.demo.shapes import SIDE, Scene, draw_scenes
from vlyard.formats.answer import parse_answer
from vlyard.formats.box import Box
from vlyard.jobs.conversion import DEFAULT_PROMPT
from workers.qwen.engine import Engine, Limits
from workers.qwen.loading import LoadedModel
from workers.qwen.request import Request, Turn
from workers.qwen.sampling import GREEDY

_LIMITS = Limits(batch_tokens=8_192, batch_rows=16, wait_seconds=0.01, feature_bytes=0)


@dataclass(frozen=True)
class Score:
    """Means over pictures, 0..1."""

    iou: float  # of the first object's box with the true one; 0 where there is none
    found: float  # how many boxes have an IoU above a half
    labelled: float  # how many labels are right


def measure(loaded: LoadedModel, count: int, seed: int, *, side: int = SIDE, prompt: str = DEFAULT_PROMPT) -> Score:
    """Ask about `count` pictures of the seed, taking the likeliest token each time; about 0.02 s each on one core."""
    scenes = list(islice(draw_scenes(seed, side=side), count))
    with closing(Engine(loaded, _LIMITS)) as engine, ThreadPoolExecutor(_LIMITS.batch_rows) as threads:
        answers = list(
            zip(scenes, threads.map(lambda scene: _first_object(engine, scene, prompt), scenes), strict=True)
        )
    ious = [answer[1].iou(scene.box) if answer else 0.0 for scene, answer in answers]
    labels = [answer is not None and answer[0] == scene.label for scene, answer in answers]
    return Score(iou=sum(ious) / count, found=sum(iou > 0.5 for iou in ious) / count, labelled=sum(labels) / count)


def _first_object(engine: Engine, scene: Scene, prompt: str) -> tuple[str, Box] | None:
    question = Request((Turn("user", (scene.picture, prompt)),), GREEDY)
    objects = parse_answer(engine.ask(question).text).boxed
    return (objects[0].label, objects[0].box) if objects else None
