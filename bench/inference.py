"""Queued questions a second, from the submission of 64 jobs, or a multiple, to the last one's end, as its row says it.

The baseline is transformers' own `generate` on the same padded batches, with everything that comes before and after
left out: pictures are read, prompts are tokens already, and nobody wants the words. It samples as the jobs do. Beside
it stands the tutorial's loop, which asks one question at a time. The model has random weights, so that its answers are
as long as they may be, and is large enough for seconds of work.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import psycopg
import torch
from PIL import Image

from bench.figure import Figure, in_turns
from bench.stage import Stage, Yard
from vlyard import Client, InferenceResult, InferenceSpec
from vlyard.demo.shapes import draw_scenes
from vlyard.jobs.view import Entry
from workers.qwen.demo.architecture import Shape, build_untrained
from workers.qwen.loading import LoadedModel, load_model

_SHAPE = Shape(layers=6, hidden=384)  # 9 million parameters: six seconds for 64 answers on a slow core
_NAME, _QUESTION = "bench", "Detect all objects in this image and give their boxes as JSON."
_JOBS, _ROWS, _TOKENS = 64, 32, 128
_ALONE = 4  # of the jobs, for the loop that asks one by one
_LEAST_SECONDS = 3.0  # of raw work: less would measure how the queue begins and ends
_MARGIN = 1.2  # since a machine is not always as slow as when it was looked at
_PATIENCE_SECONDS = 300

# Nearly even odds for a hundred tokens: no answer ends early or repeats itself.
_LOOK_SECONDS = 0.05  # a hundredth of what is measured; to look more often takes the worker's time
_SAMPLING: dict[str, Any] = {"temperature": 1.5, "top_k": 100, "top_p": 1.0}


def measure(stage: Stage) -> Sequence[Figure]:
    with _scene(stage) as (yard, client, pictures, model):
        images = [client.upload(picture).id for picture in pictures]
        batches = [_padded(model, pictures[at : at + _ROWS]) for at in range(0, _JOBS, _ROWS)]
        rounds = _rounds(lambda: [_generate(model, batch) for batch in batches])
        jobs = rounds * _JOBS
        plain, drawn, raw, alone = in_turns(
            lambda: _jobs_a_second(yard, client, images * rounds, annotate=False),
            lambda: _jobs_a_second(yard, client, images * rounds, annotate=True),
            lambda: jobs / _spent(lambda: [_generate(model, batch) for batch in batches * rounds]),
            lambda: _ALONE / _spent(lambda: [_tutorial(model, picture) for picture in pictures[:_ALONE]]),
        )
        first, bare = in_turns(lambda: _first_token(client, images[0]), lambda: _bare_first_token(model, pictures[0]))
    seconds = f"generate on the same batches ({jobs / raw:.1f} s of work)"
    return [
        Figure(f"{jobs} queued questions, without drawings", "answers/s", "more", plain, seconds, raw, 0.9),
        Figure(f"{jobs} queued questions, with drawings", "answers/s", "more", drawn, seconds, raw, 0.8),
        Figure(f"{jobs} queued questions, without drawings", "answers/s", "more", plain, "one by one, no queue", alone),
        Figure("first token of a question on an idle box", "ms", "less", first, "the same without a queue", bare),
    ]


@contextmanager
def _scene(stage: Stage) -> Iterator[tuple[Yard, Client, Sequence[Path], LoadedModel]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the worker has it
    with TemporaryDirectory() as folder:
        build_untrained(Path(folder, "models", _NAME), seed=1, shape=_SHAPE)
        pictures = list(_draw(Path(folder)))
        model = load_model(Path(folder, "models", _NAME))
        own = {"VLYARD_MODELS_DIR": f"{folder}/models"}
        with stage.yard("api", "dispatcher", "asker", **own) as yard, Client(yard.api, yard.key) as client:
            yield yard, client, pictures, model
    torch.set_num_threads(threads)


def _draw(folder: Path) -> Iterator[Path]:
    for number, scene in enumerate(islice(draw_scenes(3), _JOBS)):
        path = folder / f"{number}.png"
        scene.picture.save(path)
        yield path


def _rounds(work: Callable[[], object]) -> int:
    """How many times the work has to be done for enough of it; the first time warms up, and does not count."""
    work()
    return max(1, math.ceil(_LEAST_SECONDS / _spent(work) * _MARGIN))


def _jobs_a_second(yard: Yard, client: Client, images: Sequence[UUID], *, annotate: bool) -> float:
    entries = [
        Entry(
            spec=InferenceSpec(
                image=image, prompt=_QUESTION, model=_NAME, max_new_tokens=_TOKENS, annotate=annotate, **_SAMPLING
            )
        )
        for image in images
    ]
    began = time.perf_counter()
    jobs = client.submit_many(entries)
    mine = ([job.id for job in jobs],)
    with psycopg.connect(yard.database_url, autocommit=True) as connection:
        while _count(connection, mine, "finished_at IS NULL"):
            assert time.perf_counter() - began < _PATIENCE_SECONDS, "the jobs do not end"
            time.sleep(_LOOK_SECONDS)
        spent = time.perf_counter() - began
        assert _count(connection, mine, "state = 'succeeded'") == len(jobs)
    return len(jobs) / spent


def _count(connection: psycopg.Connection, jobs: tuple[Sequence[UUID]], what: Any) -> int:
    row = connection.execute(f"SELECT count(*) FROM jobs WHERE id = ANY(%s) AND {what}", jobs).fetchone()
    assert row is not None
    return int(row[0])


# --- without VLyard -------------------------------------------------------------------------------------------


def _message(picture: Image.Image) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": _QUESTION}]}]


def _padded(model: LoadedModel, pictures: Sequence[Path]) -> dict[str, torch.Tensor]:
    messages = [_message(Image.open(picture).convert("RGB")) for picture in pictures]
    return _encoded(model, messages, padding=True, padding_side="left")


def _encoded(model: LoadedModel, messages: Any, **padding: Any) -> dict[str, torch.Tensor]:
    return dict(
        model.processor.apply_chat_template(
            messages,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=padding,
        )
    )


def _generate(model: LoadedModel, inputs: dict[str, torch.Tensor], tokens: int = _TOKENS) -> Any:
    with torch.inference_mode():
        return model.model.generate(**inputs, max_new_tokens=tokens, do_sample=True, **_SAMPLING)


def _tutorial(model: LoadedModel, picture: Path) -> str:
    inputs = _encoded(model, _message(Image.open(picture).convert("RGB")))
    said = _generate(model, inputs)[:, inputs["input_ids"].shape[1] :]
    texts: list[str] = model.processor.batch_decode(said, skip_special_tokens=True)
    return texts[0]


def _spent(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _first_token(client: Client, image: UUID) -> float:
    spec = InferenceSpec(image=image, prompt=_QUESTION, model=_NAME, max_new_tokens=1, annotate=False)
    began = time.perf_counter()
    result = client.run(spec)
    assert isinstance(result, InferenceResult)
    return (time.perf_counter() - began) * 1000


def _bare_first_token(model: LoadedModel, picture: Path) -> float:
    def ask() -> object:
        return _generate(model, _encoded(model, _message(Image.open(picture).convert("RGB"))), tokens=1)

    return _spent(ask) * 1000
