"""Learning for real, in small: what is learned, what stays, and that a cut training goes on as if it was not."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.qwen.training_sets import LOST, changed, getting_lost
from vlyard.demo.shapes import draw_splits
from vlyard.errors import InvalidInput, OutOfMemory
from vlyard.formats.convert import convert
from vlyard.jobs.conversion import ConversionOptions
from vlyard.jobs.training import TrainingSpec
from workers.qwen.loading import DEMO_FOLDER, LoadedModel, load_model
from workers.qwen.training.asking import score_held_out
from workers.qwen.training.learning import learn
from workers.qwen.training.parts import part_of
from workers.qwen.training.plan import Learned, Listener, Plan, Step
from workers.qwen.training.preparing import prepare

FAST: dict[str, Any] = {
    "max_steps": 6, "micro_batch": 2, "accumulation": 2, "gradient_checkpointing": False, "checkpoint_steps": 3,
    "seed": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten samples to learn, so that an epoch ends within a step, and four held out."""
    folder = tmp_path_factory.mktemp("shapes")
    draw_splits(folder / "drawn", 10, 4, 3, side=128)
    convert(folder / "drawn", folder / "data", ConversionOptions(), lambda _, __: None)
    return folder / "data"


@dataclass(frozen=True)
class Heard:
    """A training, and what it told."""

    learned: Learned
    steps: list[Step]
    kept: dict[int, Path]  # checkpoints by their step
    output: Path

    @property
    def losses(self) -> list[float]:
        return [step.loss for step in self.steps]

    def weights(self) -> dict[str, torch.Tensor]:
        return {
            name: value
            for file in (self.output / "model").glob("*.safetensors")
            for name, value in load_file(file).items()
        }


Run = Callable[..., Heard]


@pytest.fixture
def run(dataset: Path, tmp_path: Path) -> Run:
    """Train on the data; fields are the specification's."""

    def run(
        *,
        base: Path = DEMO_FOLDER,
        data: Path = dataset,
        resume: Path | None = None,
        halved: int = 0,
        stop: int = 99,
        **fields: Any,
    ) -> Heard:
        output = tmp_path / uuid4().hex
        output.mkdir()
        steps: list[Step] = []
        kept: dict[int, Path] = {}

        def keep(folder: Path, step: int) -> None:
            kept[step] = output / f"kept-{step}"
            shutil.copytree(folder, kept[step])

        spec = TrainingSpec.model_validate({"dataset": uuid4(), **FAST, **fields})
        plan = Plan(spec=spec, base=base, dataset=data, output=output, resume=resume, halved=halved)
        learned = learn(plan, Listener(steps.append, keep, lambda _: None, lambda: len(steps) >= stop))
        return Heard(learned, steps, kept, output)

    return run


def assert_weights_of(heard: Heard, checkpoint: Path) -> None:
    kept = load_file(checkpoint / "adapter_model.safetensors")
    assert kept.keys() == heard.weights().keys()
    for name, weight in heard.weights().items():
        assert torch.equal(weight, kept[name]), name


# --- what is learned ------------------------------------------------------------------------------------------


def test_an_adapter_is_learned_and_is_put_on_its_base(run: Run) -> None:
    heard = run(lora_rank=4)
    assert [step.step for step in heard.steps] == [1, 2, 3, 4, 5, 6]
    assert all(step.learning_rate >= 0 and step.grad_norm and step.memory_bytes > 2**20 for step in heard.steps)
    assert (heard.learned.samples, heard.learned.held_out, heard.learned.steps) == (10, 4, 6)
    assert (heard.learned.precision, heard.learned.device) == ("fp32", "cpu")
    assert heard.learned.trained_parameters == sum(each.numel() for each in heard.weights().values())
    assert all("language_model" in name for name in heard.weights())
    config = orjson.loads((heard.output / "model" / "adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == DEMO_FOLDER.name
    assert sorted(path.name for path in (heard.output / "model").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    assert load_model(DEMO_FOLDER, heard.output / "model").notes == ()


@pytest.mark.parametrize("parts", [("language",), ("vision",), ("merger",), ("language", "merger", "vision")])
def test_only_the_parts_that_are_to_learn_change(run: Run, parts: tuple[str, ...]) -> None:
    heard = run(method="full", parts=parts, max_steps=2, learning_rate=1e-3, checkpoint_steps=9)
    before, after = load_file(DEMO_FOLDER / "model.safetensors"), heard.weights()
    changed = {part_of(name) for name, weight in after.items() if not torch.equal(weight, before[name].float())}
    assert changed == set(parts)
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    loaded = load_model(heard.output / "model")
    assert loaded.processor.chat_template
    assert (heard.output / "model" / "preprocessor_config.json").is_file()


@pytest.mark.parametrize(
    "fields",
    [
        {"dora": True, "lora_modules": ("q_proj", "v_proj")},
        {"rslora": True, "parts": ("language", "merger", "vision")},
        {"precision": "pure_bf16"},
        {"precision": "bf16"},
        {"gradient_checkpointing": True},
        {"schedule": "warmup_stable_decay", "decay": 0.5, "warmup": 0.2, "optimizer": "adafactor"},
    ],
)
def test_every_way_to_learn_ends_with_a_model_that_can_be_asked(run: Run, fields: dict[str, Any]) -> None:
    heard = run(max_steps=2, **fields)
    assert all(0 < loss < 10 for loss in heard.losses)
    assert load_model(DEMO_FOLDER, heard.output / "model").bytes > 0
    expected = torch.bfloat16 if fields.get("precision") == "pure_bf16" else torch.float32
    assert {weight.dtype for weight in heard.weights().values()} == {expected}


def test_computing_activations_twice_changes_no_number(run: Run) -> None:
    assert run(gradient_checkpointing=True).losses == run().losses


def test_learning_makes_held_out_samples_likelier(run: Run) -> None:
    heard = run(
        method="full", parts=("language", "merger", "vision"), base=DEMO_FOLDER, max_steps=24, learning_rate=1e-3
    )
    assert heard.losses[0] > heard.learned.loss
    measured = [step.held_out_loss for step in heard.steps if step.held_out_loss is not None]
    assert len(measured) == 8
    assert heard.learned.held_out_loss == measured[-1]


# --- going on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "full"])
def test_twenty_steps_are_ten_and_ten_more(run: Run, method: str) -> None:
    # dropout, accumulation, and epochs that end between two checkpoints
    fields = {"method": method, "max_steps": 20, "checkpoint_steps": 10, "lora_dropout": 0.2, "learning_rate": 1e-3}
    straight = run(**fields)
    resumed = run(**fields, resume=straight.kept[10])
    assert resumed.learned.resumed_at == 10
    assert resumed.losses == pytest.approx(straight.losses[10:], abs=1e-6)
    assert resumed.learned.loss == pytest.approx(straight.learned.loss, abs=1e-6)
    for name, weight in straight.weights().items():
        assert torch.allclose(resumed.weights()[name], weight, atol=1e-6, rtol=0), name


@pytest.mark.parametrize(
    "fields", [{"max_steps": 5, "checkpoint_steps": 5}, {"stop_after": 1, "learning_rate": 1e-9, "checkpoint_steps": 1}]
)
def test_from_its_last_checkpoint_a_training_has_only_to_save_the_model(run: Run, fields: dict[str, Any]) -> None:
    # given a training that ended within an epoch of three steps, as planned or early
    straight = run(**fields)
    last = straight.learned.steps
    assert last % 3
    # when it goes on from there
    resumed = run(**fields, resume=straight.kept[last])
    # then it does no further step, and says and saves the same
    assert (resumed.steps, resumed.kept, resumed.learned.steps) == ([], {}, last)
    assert resumed.learned.stopped_early == straight.learned.stopped_early
    assert resumed.learned.held_out_loss == pytest.approx(straight.learned.held_out_loss, abs=1e-6)
    for name, weight in straight.weights().items():
        assert torch.equal(resumed.weights()[name], weight), name


def test_one_that_is_told_to_stop_leaves_a_checkpoint_and_no_model(run: Run) -> None:
    stopped = run(stop=2, checkpoint_steps=100)
    assert stopped.learned.stopped
    assert not (stopped.output / "model").exists()
    (step,) = stopped.kept
    straight = run(checkpoint_steps=100)
    assert run(resume=stopped.kept[step], checkpoint_steps=100).losses == pytest.approx(
        straight.losses[step:], abs=1e-6
    )


def test_two_processes_learn_what_one_does_with_the_same_samples_a_step(run: Run) -> None:
    together = run(gpus=2, micro_batch=2, accumulation=1, held_out=None, limit=8)
    alone = run(micro_batch=2, accumulation=2, held_out=None, limit=8)
    assert together.losses == pytest.approx(alone.losses, abs=1e-5)
    assert sorted(together.kept) == [3, 6]
    for name, weight in alone.weights().items():
        assert torch.allclose(together.weights()[name], weight, atol=1e-5, rtol=0), name


def test_after_memory_ran_out_a_step_is_the_same_in_smaller_pieces(run: Run) -> None:
    smaller = run(halved=1)
    assert (smaller.learned.micro_batch, smaller.learned.accumulation) == (1, 4)
    assert smaller.losses == pytest.approx(
        run().losses, abs=1e-3
    )  # Adam magnifies what rounding does to small gradients
    with pytest.raises(OutOfMemory, match="one sample at a time"):
        run(halved=2)


# --- measuring ------------------------------------------------------------------------------------------------


def test_it_stops_where_measuring_brings_nothing_better(run: Run) -> None:
    heard = run(evaluate="checkpoint", stop_after=1, stop_on="f1", max_steps=30, learning_rate=1e-6)
    assert heard.learned.stopped_early
    assert heard.learned.steps == 6  # the second measurement was no better than the first
    assert heard.learned.scores is not None
    assert heard.learned.scores.samples == 4
    assert heard.learned.scores.f1 > 0.5  # the demo model knows shapes


def test_one_that_is_to_stop_early_leaves_the_best_weights_and_not_the_last(run: Run) -> None:
    # given a training that gets worse after its first measurement
    fields = {"stop_after": 2, "checkpoint_steps": 2, "max_steps": 12, "learning_rate": 3e-3, "evaluate": "end"}
    heard = run(**fields)
    measured = {step.step: step.held_out_loss for step in heard.steps if step.held_out_loss is not None}
    assert (list(measured), heard.learned.stopped_early) == ([2, 4, 6], True)
    # then what is left, and what is said of it, is the best
    assert heard.learned.best_step == 2
    assert heard.learned.held_out_loss == pytest.approx(min(measured.values()), abs=1e-6)
    assert heard.learned.scores is not None
    assert_weights_of(heard, heard.kept[2])
    # and so it is where the best one's checkpoint is older than the one that it goes on from
    resumed = run(**fields, resume=heard.kept[4])
    assert (resumed.learned.best_step, resumed.learned.steps) == (2, 6)
    assert_weights_of(resumed, heard.kept[2])


def test_questions_that_do_not_fit_into_memory_together_are_asked_in_halves(demo: LoadedModel, dataset: Path) -> None:
    prepared = prepare(TrainingSpec(dataset=uuid4()), dataset, demo.processor)
    expected = score_held_out(demo.model, demo.processor, prepared.held_out, 4)

    class Narrow(torch.nn.Module):
        """A model on a card that holds two questions."""

        device = demo.model.device
        sizes: list[int] = []  # noqa: RUF012

        def generate(self, input_ids: torch.Tensor, **more: Any) -> Any:
            self.sizes.append(len(input_ids))
            if len(input_ids) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return demo.model.generate(input_ids=input_ids, **more)

    narrow = Narrow()
    assert score_held_out(narrow, demo.processor, prepared.held_out, 4) == expected
    assert narrow.sizes == [4, 2, 2]


# --- what cannot be -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lora_modules": ("q_projection",)}, "/spec/lora_modules.*q_projection.*q_proj"),
        ({"precision": "fp16"}, "/spec/precision: fp16 needs a GPU"),
        ({"method": "qlora"}, "/spec/method: qlora needs a GPU"),
        ({"optimizer": "lion_8bit"}, "/spec/optimizer"),
        ({"gpus": 2, "sharding": "fsdp"}, "/spec/sharding"),
    ],
)
def test_what_cannot_be_done_is_told_before_a_step(run: Run, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        run(**fields)


def test_a_loss_that_is_no_number_ends_it_and_leaves_no_checkpoint(run: Run, tmp_path: Path) -> None:
    base = changed(tmp_path / "base", "model.language_model.norm.weight", lambda weight: weight * 0 + 3e38)
    heard = run(base=base, checkpoint_steps=1)
    assert heard.learned.lost is not None
    assert heard.learned.lost.startswith("at step 1 the loss is")
    assert (heard.steps, heard.kept) == ([], {})
    assert not (heard.output / "model").exists()


def test_one_that_gets_lost_later_leaves_the_model_of_its_last_good_checkpoint(run: Run, tmp_path: Path) -> None:
    base, data = tmp_path / "base", tmp_path / "data"
    getting_lost(base, data)
    fields = {"base": base, "data": data, **LOST}
    heard = run(**fields, checkpoint_steps=2)
    # then it ends there, and the model is that of the checkpoint before
    assert heard.learned.lost == f"at step {len(heard.steps) + 1} the loss is nan and the gradients' norm is nan"
    assert heard.learned.steps == max(heard.kept) >= 2
    assert_weights_of(heard, heard.kept[heard.learned.steps])
    # and so it is where an attempt before has made that
    resumed = run(**fields, checkpoint_steps=99, resume=max(heard.kept.values()))
    assert resumed.learned.lost == heard.learned.lost
    assert_weights_of(resumed, heard.kept[heard.learned.steps])


# --- what is left ---------------------------------------------------------------------------------------------


def test_the_recipe_says_the_same_in_llama_factorys_words(run: Run) -> None:
    heard = run(max_steps=1, lora_rank=4, parts=("language", "merger"), max_pixels=20_000, name="mine")
    recipe = yaml.safe_load((heard.output / "recipe" / "train.yaml").read_text())
    assert recipe["finetuning_type"] == "lora"
    assert (recipe["lora_rank"], recipe["image_max_pixels"], recipe["output_dir"]) == (4, 20_000, "mine")
    assert (recipe["freeze_vision_tower"], recipe["freeze_multi_modal_projector"]) == (True, False)
    assert (recipe["dataset"], recipe["eval_dataset"]) == ("grounding", "grounding_val")
    info = orjson.loads((heard.output / "recipe" / "dataset_info.json").read_bytes())
    assert info["grounding"]["formatting"] == "sharegpt"
    unlike = run(max_steps=1, splits=("val",), held_out=None, schedule="warmup_stable_decay", decay=1.0)
    recipe = yaml.safe_load((unlike.output / "recipe" / "train.yaml").read_text())
    assert recipe["dataset"] == "grounding_val"
    assert "eval_dataset" not in recipe
    assert recipe["lr_scheduler_kwargs"] == {"num_decay_steps": 1}
