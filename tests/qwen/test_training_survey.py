"""A survey counts what is there, and estimates from the model's shape."""

from itertools import pairwise
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import pytest
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from vlyard.demo.shapes import draw_dataset
from vlyard.formats.convert import convert
from vlyard.formats.converted import open_converted
from vlyard.jobs.conversion import ConversionOptions
from vlyard.jobs.learning import Method, Optimizer, Part
from vlyard.jobs.training import TrainingSpec
from vlyard.jobs.training_check import TrainingCheckResult, TrainingCheckSpec
from workers.qwen.loading import DEMO_FOLDER, LoadedModel
from workers.qwen.training.estimates import STATES, Learning, shape_of
from workers.qwen.training.parts import let_learn
from workers.qwen.training.preparing import open_processor, prepare
from workers.qwen.training.survey import Survey, histogram

LANGUAGE: tuple[Part, ...] = ("language",)
HALVES = (("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("survey")
    draw_dataset(folder / "shapes", count=8, seed=9)
    options = ConversionOptions(split={"train": 0.75, "val": 0.25})
    convert(folder / "shapes", folder / "set", options, lambda *_: None)
    next((folder / "set" / "images").rglob("0003.png")).unlink()
    return folder / "set"


def survey(folder: Path, **more: Any) -> Survey:
    spec = TrainingCheckSpec.model_validate({"dataset": uuid4(), "policy": "quarantine", **more})
    return Survey(spec, prepare(spec, folder, open_processor(DEMO_FOLDER)), DEMO_FOLDER)


def test_the_numbers_are_those_of_the_samples_that_would_be_learned(folder: Path) -> None:
    surveyed = survey(folder)

    numbers = TrainingCheckResult(**surveyed.numbers())

    items = [surveyed.prepared.learned[at] for at in range(numbers.samples)]
    assert (numbers.samples + numbers.held_out, numbers.unusable, numbers.too_long) == (7, 1, 0)
    assert numbers.tokens == sum(len(item.ids) for item in items)
    assert numbers.answer_tokens == sum(int((item.labels != -100).sum()) for item in items)
    assert numbers.picture_tokens == 16 * numbers.samples
    assert sum(numbers.lengths.counts) == numbers.samples
    assert numbers.lengths.largest == max(len(item.ids) for item in items)
    assert (numbers.min_pixels, numbers.max_pixels, numbers.template) == (12288, 16384, "model")


def test_samples_that_are_too_long_are_counted_apart(folder: Path) -> None:
    longest = survey(folder).numbers()["lengths"].largest

    numbers = survey(folder, max_tokens=longest - 1).numbers()

    assert numbers["too_long"] >= 1
    assert numbers["unusable"] == numbers["too_long"] + 1
    assert numbers["lengths"].largest < longest


def test_the_preview_shows_words_as_the_model_sees_them_and_which_are_learned(folder: Path) -> None:
    [first, *others] = survey(folder, system="Be kind.").preview()

    sample = next(open_converted(folder).samples("grounding"))
    asked, answered, behind = (part["text"] for part in first["parts"])
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    assert asked == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        f"<|im_start|>user\n{picture}{sample.question}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (answered, behind) == (f"{sample.answer}<|im_end|>", "\n")
    assert [part["learned"] for part in first["parts"]] == [False, True, False]
    assert first["pictures"] == [{"picture": sample.picture, "width": 128, "height": 128, "tokens": 16}]
    assert len(others) == 4


def test_what_is_unusable_is_listed_and_counted_by_its_reason(folder: Path) -> None:
    surveyed = survey(folder)

    [line] = surveyed.unusable()

    assert surveyed.report()["unusable_by_code"] == {"no_picture": 1}
    assert line["code"] == "no_picture"
    assert "0003.png" in line["message"]


@pytest.mark.parametrize("lengths", [[7], [5, 5, 5], list(range(100, 1000, 7)), [1, 10**6]])
def test_every_length_is_in_one_bin(lengths: list[int]) -> None:
    told = histogram(lengths)

    assert (told.smallest, told.largest) == (min(lengths), max(lengths))
    assert len(told.edges) == len(told.counts) + 1 <= 21
    for (low, high), count in zip(pairwise(told.edges), told.counts, strict=True):
        assert count == sum(low <= length < high for length in lengths)
    assert sum(told.counts) == len(lengths)


def test_the_shape_is_that_of_the_model_in_memory(demo: LoadedModel) -> None:
    shape = shape_of(DEMO_FOLDER)

    language, vision = demo.model.model.language_model, demo.model.model.visual
    assert shape.parameters == sum(parameter.numel() for parameter in demo.model.parameters())
    seen = shape.parts["vision"].parameters + shape.parts["merger"].parameters
    assert seen == sum(parameter.numel() for parameter in vision.parameters())
    assert shape.matrices == shape.parts["language"].linear + language.embed_tokens.weight.numel()


@pytest.mark.parametrize("parts", [("language",), ("merger", "vision"), ("language", "merger", "vision")])
def test_the_adapter_is_as_large_as_the_one_that_learns(parts: tuple[Part, ...]) -> None:
    model: Any = Qwen3VLForConditionalGeneration
    spec = TrainingSpec(dataset=uuid4(), parts=parts, lora_rank=8)

    tuned: Any = let_learn(model(Qwen3VLConfig.from_pretrained(DEMO_FOLDER)), spec)

    trained, _ = tuned.get_nb_trainable_parameters()
    assert shape_of(DEMO_FOLDER).adapter(Learning("lora", parts, 8)) == trained


def test_estimates_of_a_model_of_eight_billion_are_of_the_known_size(tmp_path: Path) -> None:
    """The shape is that of Qwen3-VL-8B-Instruct; LLaMA-Factory tells of 60, 16 and 6 GB for 7B."""
    Qwen3VLConfig(
        text_config={
            "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        },
        vision_config={
            "hidden_size": 1152, "depth": 27, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096,
        },
        tie_word_embeddings=False,
    ).save_pretrained(tmp_path)  # fmt: skip

    shape = shape_of(tmp_path)

    assert shape.parameters == pytest.approx(8.77e9, rel=0.001)
    methods: tuple[Method, ...] = ("full", "lora", "qlora")
    language: tuple[Part, ...] = ("language",)
    ways = [Learning(method, language, 16) for method in methods]
    full, lora, qlora = (shape.weight_bytes(way) / 1e9 for way in ways)
    assert full == pytest.approx(8 * 8.19 + 2 * 0.58, rel=0.01)
    assert lora == pytest.approx(2 * 8.77 + 8 * 0.0436, rel=0.01)
    assert qlora == pytest.approx(2 * (8.77 - 6.95) + 0.5625 * 6.95 + 16 * 0.0436, rel=0.01)
    whole = Learning("full", ("language", "merger", "vision"), 16)
    assert shape.weight_bytes(whole) == 8 * shape.parameters
    assert shape.flops(ways[0], 1000, 0) == pytest.approx(8 * 7.57e9 * 1000, rel=0.01)
    assert shape.flops(ways[1], 1000, 0) == 0.75 * shape.flops(ways[0], 1000, 0)
    assert shape.flops(whole, 0, 1000) == 4 * shape.flops(ways[0], 0, 1000)
    assert shape.activation_bytes(whole, 100, 1000) > shape.activation_bytes(ways[0], 100, 1000)


@pytest.mark.parametrize(
    ("way", "bytes_each", "beside"),  # of a weight that learns, and of one of the parts that do not
    [
        ({}, 8, 2),
        ({"precision": "fp32"}, 16, 4),
        ({"precision": "bf16"}, 18, 4),  # and a copy to compute with
        ({"optimizer": "sgd"}, 4, 2),
        ({"optimizer": "adamw_bnb_8bit"}, 6, 2),
        ({"gpus": 2}, 10, 2),  # and a copy of gradients on their way
        ({"gpus": 2, "sharding": "fsdp"}, 4, 1),
    ],
)
def test_what_a_weight_takes_depends_on_the_precision_the_optimiser_and_the_gpus(
    way: dict[str, Any], bytes_each: int, beside: int
) -> None:
    shape = shape_of(DEMO_FOLDER)
    learns = shape.parts["language"].parameters

    needed = shape.weight_bytes(Learning("full", LANGUAGE, 16, **way))

    assert needed == bytes_each * learns + beside * (shape.parameters - learns)


def test_it_is_known_of_every_optimiser_what_it_keeps() -> None:
    assert STATES.keys() == {*get_args(Optimizer)}


def test_keeping_activations_takes_more_memory_and_less_work(folder: Path) -> None:
    again, kept = (survey(folder, gradient_checkpointing=each).numbers() for each in (True, False))

    assert kept["activation_bytes"] > again["activation_bytes"]
    assert kept["flops"] < again["flops"]
    shared = survey(folder, gpus=2).numbers()
    assert shared["seconds"] == {card: pytest.approx(took / 2) for card, took in again["seconds"].items()}


def test_an_adapter_on_some_layers_is_smaller_by_the_others() -> None:
    shape = shape_of(DEMO_FOLDER)

    some, others = (shape.adapter(Learning("lora", LANGUAGE, 8, modules=each)) for each in HALVES)

    assert some + others == shape.adapter(Learning("lora", LANGUAGE, 8))


def test_larger_micro_batches_need_more_and_more_epochs_take_longer(folder: Path) -> None:
    one, two = survey(folder, micro_batch=1, epochs=1).numbers(), survey(folder, micro_batch=2, epochs=3).numbers()

    assert two["activation_bytes"] == pytest.approx(2 * one["activation_bytes"], rel=0.05)
    assert two["flops"] == 3 * one["flops"]
    assert two["seconds"] == {
        card: pytest.approx(3 * one["seconds"][card]) for card in ("RTX 4090", "A100", "L40S", "H100")
    }
    steps = survey(folder, max_steps=3, micro_batch=one["samples"], accumulation=2).numbers()
    assert steps["flops"] == pytest.approx(6 * one["flops"])
    assert two["weight_bytes"] == one["weight_bytes"]
