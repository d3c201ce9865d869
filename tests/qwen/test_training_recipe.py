"""What a specification becomes: a batch, arguments, a schedule, an optimiser; and which numbers are refused."""

import errno
import math
import pickle
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from transformers import TrainerControl, TrainerState, get_scheduler
from transformers.trainer_optimizer import _BITSANDBYTES_OPTIMIZERS
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from vlyard.errors import InvalidInput, OutOfMemory
from vlyard.jobs.learning import Optimizer, Schedule
from vlyard.jobs.training import TrainingSpec
from workers.qwen.loading import first_without_numbers
from workers.qwen.memory import naming_out_of_memory
from workers.qwen.training.callbacks import Narrator
from workers.qwen.training.plan import Listener, Step
from workers.qwen.training.precision import choose_numbers
from workers.qwen.training.ranks import _as_sent
from workers.qwen.training.recipe import OneCard, batch_of, shape_of_schedule


def learn(**fields: Any) -> TrainingSpec:
    return TrainingSpec.model_validate({"dataset": uuid4(), **fields})


# --- steps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("micro", "accumulation", "halved", "smaller"),
    [(4, 3, 0, (4, 3)), (4, 3, 1, (2, 6)), (3, 4, 1, (1, 12)), (5, 2, 1, (2, 5)), (7, 1, 1, (1, 7)), (8, 1, 2, (2, 4))],
)
def test_a_step_has_the_same_samples_after_memory_ran_out(
    micro: int, accumulation: int, halved: int, smaller: tuple[int, int]
) -> None:
    assert batch_of(learn(micro_batch=micro, accumulation=accumulation), halved) == smaller


def test_a_process_computes_on_one_card_however_many_it_sees(tmp_path: Path) -> None:
    arguments = OneCard(str(tmp_path), use_cpu=True)
    arguments._n_gpu = 4  # as transformers has it where there are four
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == arguments.per_device_train_batch_size


@pytest.mark.parametrize("said", ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"])
def test_memory_that_ran_out_is_known_by_what_cuda_says_of_it(said: str) -> None:
    def work() -> None:
        raise RuntimeError(said)

    with pytest.raises(OutOfMemory):
        naming_out_of_memory(work)


def test_a_full_disk_in_one_of_several_processes_is_told_as_that() -> None:
    sent = pickle.loads(pickle.dumps(_as_sent(OSError(errno.ENOSPC, "the disk is full", "checkpoint-2"))))
    assert (type(sent), sent.errno, sent.strerror) == (OSError, errno.ENOSPC, "the disk is full")
    assert "ValueError: odd" in str(_as_sent(ValueError("odd")))


# --- schedules and optimisers ---------------------------------------------------------------------------------


def test_every_schedule_of_transformers_can_be_chosen() -> None:
    assert set(get_args(Schedule)) == {each.value for each in SchedulerType}


@pytest.mark.parametrize("name", get_args(Schedule))
def test_every_schedule_begins_and_goes_on(name: Schedule) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    shape = shape_of_schedule(learn(schedule=name, warmup=0.2, lowest=0.5), 10)
    schedule: Any = get_scheduler(shape.name, optimizer, shape.warm, 10, shape.own)
    for _ in range(10):
        optimizer.step()
        schedule.step(*([1.0] if name in {"reduce_lr_on_plateau", "greedy"} else []))
    assert 0 <= optimizer.param_groups[0]["lr"] <= 1e-4
    if "min_lr" in name:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5e-4, rel=0.1)


def test_a_constant_rate_that_is_to_warm_up_does() -> None:
    assert shape_of_schedule(learn(schedule="constant", warmup=0.5), 10)[:2] == ("constant_with_warmup", 5)
    assert shape_of_schedule(learn(schedule="constant", warmup=0), 10)[:2] == ("constant", 0)


def test_every_optimiser_of_transformers_can_be_chosen_that_needs_no_package_of_its_own() -> None:
    of_bitsandbytes = {each.value for each in _BITSANDBYTES_OPTIMIZERS}
    elsewhere = ("galore", "lomo", "adalomo", "grok", "schedule_free", "apollo", "stable", "torch_xla", "torch_npu")
    of_packages = {"adamw_anyprecision", "adamw_torch_4bit", "adamw_torch_8bit"}
    names = {each.value for each in OptimizerNames} - of_packages
    assert set(get_args(Optimizer)) == {each for each in names if not any(word in each for word in elsewhere)}
    for name in get_args(Optimizer):
        if name in of_bitsandbytes:
            with pytest.raises(InvalidInput, match=f"/spec/optimizer: {name} needs a GPU"):
                choose_numbers(learn(optimizer=name), cuda=False)
        else:
            choose_numbers(learn(optimizer=name), cuda=False)


# --- numbers --------------------------------------------------------------------------------------------------


def heard(spec: TrainingSpec, norms: list[float], tmp_path: Path) -> tuple[Narrator, list[Step]]:
    """What is told of steps whose gradients have these norms."""
    steps: list[Step] = []
    listener = Listener(steps.append, lambda *_: None, lambda _: None, lambda: False)
    narrator = Narrator(listener, spec, samples_a_step=1, tokens_a_sample=1.0, best=tmp_path)
    state, control = TrainerState(max_steps=99), TrainerControl()
    for norm in norms:
        state.global_step += 1
        narrator.on_log(None, state, control, {"loss": 1.0, "learning_rate": 0.1, "grad_norm": norm})
        narrator.on_step_begin(None, state, control)
    return narrator, steps


def test_fp16_may_leave_out_steps_while_it_looks_for_a_scale_and_not_for_ever(tmp_path: Path) -> None:
    narrator, steps = heard(learn(precision="fp16"), [math.inf, math.nan, 0.5, math.inf], tmp_path)
    assert narrator.lost is None
    assert [step.grad_norm for step in steps] == [None, None, 0.5, None]
    assert [Step.model_validate_json(step.model_dump_json(exclude_none=True)) for step in steps] == steps
    assert heard(learn(precision="fp16"), [math.inf] * 21, tmp_path)[0].lost is not None
    assert heard(learn(precision="bf16"), [0.5, math.inf], tmp_path)[0].lost is not None


def test_a_sharded_model_is_looked_at_part_by_part(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        model = torch.nn.BatchNorm1d(4)  # it has buffers, which are not shared out
        weight = distribute_tensor(torch.ones(4), mesh, [Shard(0)])
        model.weight = torch.nn.Parameter(weight)
        assert first_without_numbers(model) is None
        model.weight = torch.nn.Parameter(distribute_tensor(torch.tensor([1, math.nan, 1, 1]), mesh, [Shard(0)]))
        assert first_without_numbers(model) == "weight"
    finally:
        dist.destroy_process_group()
