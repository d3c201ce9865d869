"""Wrong pictures, questions and models: each fails its job with words that help, and the worker answers the next."""

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.journeys.conftest import Running
from vlyard import InferenceSpec, Job, Message, PicturePart
from vlyard.demo.shapes import draw_scenes
from vlyard.errors import InvalidInput
from vlyard.formats.picture import picture_size
from vlyard.jobs.inference import InferenceResult, PictureSize
from vlyard.jobs.state import State
from workers.qwen.demo.architecture import build_untrained


@pytest.fixture
def good(running: Running, tmp_path: Path) -> InferenceSpec:
    """A question that has an answer."""
    next(draw_scenes(31)).picture.save(tmp_path / "good.png")
    return InferenceSpec(image=running.client.upload(tmp_path / "good.png").id, prompt="What?", max_new_tokens=3)


def fails(running: Running, spec: InferenceSpec) -> Job:
    """The job, which must have failed by its first attempt, through nobody's fault but its owner's."""
    job = running.client.wait(running.client.submit(spec).id, timeout=180)
    assert (job.state, len(job.attempts)) == (State.FAILED, 1), job
    assert job.error is not None
    assert job.error.blame == "user"
    return job


def goes_on(running: Running, good: InferenceSpec, failed: Job) -> None:
    """The worker that the job failed on answers the next one."""
    job = running.client.wait(running.client.submit(good).id, timeout=180)
    assert job.state is State.SUCCEEDED
    assert job.attempts[0].worker == failed.attempts[0].worker


def _png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# fmt: off
PICTURES: dict[str, tuple[bytes, str]] = {
    "bomb.png": (_png(60_000, 60_000, b"\0" * 10_000), "3600000000"),
    "truncated.png": (_png(64, 64, b"\0" * 200), "damaged"),
    "wide.png": (_png(100_000, 16, (b"\0" + b"\x80" * 100_000) * 16), "100000"),
    "zero.png": (_png(0, 0, b""), "zero.png"),
    "text.png": (b"these are words, and no picture", "not a picture of a known format"),
}
# fmt: on


def test_bad_pictures_of_every_kind_fail_their_jobs_and_nothing_else(
    running: Running, good: InferenceSpec, tmp_path: Path
) -> None:
    for name, (content, said) in PICTURES.items():
        (tmp_path / name).write_bytes(content)
        image = running.client.upload(tmp_path / name).id
        job = fails(running, good.model_copy(update={"image": image}))
        assert name in str(job.error), job.error
        assert said in str(job.error), job.error
    goes_on(running, good, job)


def test_a_picture_of_a_hundred_thousand_pixels_across_is_answered_and_drawn_by_a_worker_that_lives_on(
    running: Running, good: InferenceSpec, tmp_path: Path
) -> None:
    # given 51 megapixels in a file of 50 kB, as slim as a model takes
    (tmp_path / "wide.png").write_bytes(_png(100_000, 510, (b"\0" + b"\x80" * 100_000) * 510))
    image = running.client.upload(tmp_path / "wide.png").id
    # when a model is asked about it
    job = running.client.wait(running.client.submit(good.model_copy(update={"image": image})).id, timeout=180)
    # then it has seen the whole picture, much smaller, and the drawing is as large as the picture
    assert (job.state, len(job.attempts)) == (State.SUCCEEDED, 1), job
    result = running.client.result(job)
    assert isinstance(result, InferenceResult)
    assert result.answer.pictures == (PictureSize(width=100_000, height=510),)
    assert 0 < result.answer.picture_tokens < 100
    drawing = running.client.download(result.artefacts["annotated"], tmp_path / "drawing.png")
    assert picture_size(drawing) == (100_000, 510)
    # and the next question is answered
    goes_on(running, good, job)


def test_a_thousand_pictures_in_one_request_are_refused_at_the_door(running: Running, good: InferenceSpec) -> None:
    assert good.image is not None
    many = Message.model_construct(role="user", content=(PicturePart(image=good.image),) * 1_000)
    spec = InferenceSpec.model_construct(messages=(many,))

    with pytest.raises(InvalidInput, match="1000 pictures, and 64 at most"):
        running.client.submit(spec)


def test_a_prompt_longer_than_the_context_says_by_how_much(running: Running, good: InferenceSpec) -> None:
    job = fails(running, good.model_copy(update={"prompt": "1" * 30_000}))

    assert "tokens" in str(job.error)
    goes_on(running, good, job)


# --- models ---------------------------------------------------------------------------------------------------


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _foreign(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))


def _without_processor(folder: Path) -> None:
    (folder / "processor_config.json").unlink()


def _not_numbers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("mlp.down_proj.weight"))
    weights[name][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1_000])


MODELS: list[tuple[Callable[[Path], None], str]] = [
    (_pickled, "pytorch_model.bin"),
    (_foreign, "llama"),
    (_without_processor, "processor_config.json"),
    (_not_numbers, "down_proj"),
    (_cut, "model.safetensors"),
]


def test_bad_checkpoints_of_every_kind_fail_their_jobs_and_nothing_else(
    running: Running, good: InferenceSpec, tmp_path: Path
) -> None:
    build_untrained(tmp_path / "good", seed=1)
    for spoil, said in MODELS:
        folder = Path(shutil.copytree(tmp_path / "good", tmp_path / spoil.__name__.strip("_")))
        spoil(folder)
        model = running.client.upload_tree(folder).id
        job = fails(running, good.model_copy(update={"model": model}))
        assert said in str(job.error), (spoil.__name__, job.error)
    whole = running.client.upload_tree(tmp_path / "good").id
    goes_on(running, good.model_copy(update={"model": whole}), job)


def test_an_adapter_for_another_base_is_refused_by_its_first_tensor(
    running: Running, good: InferenceSpec, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    tensors = {f"{name}.lora_A.weight": torch.zeros(2, 999), f"{name}.lora_B.weight": torch.zeros(999, 2)}
    save_file(tensors, folder / "adapter_model.safetensors")

    job = fails(running, good.model_copy(update={"adapter": running.client.upload_tree(folder).id}))

    assert "q_proj" in str(job.error)
    assert "999" in str(job.error)
    goes_on(running, good, job)
