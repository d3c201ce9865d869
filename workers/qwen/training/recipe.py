"""From a specification to transformers' TrainingArguments. It knows no model and no data."""

import math
from typing import Any, NamedTuple

import torch
from transformers import TrainingArguments

from vlyard.errors import OutOfMemory
from vlyard.jobs.training import TrainingSpec
from workers.qwen.training.plan import Plan
from workers.qwen.training.precision import Numbers
from workers.qwen.training.preparing import Prepared


class Batch(NamedTuple):
    """What makes one step on one device."""

    micro: int  # samples that are computed at a time
    accumulation: int


class OneCard(TrainingArguments):
    """For a process that computes on one card, however many there are.

    With several the Trainer would spread each batch over all of them, which changes what a step is, and takes the
    cards of others. Several cards are several processes here.
    """

    @property
    def n_gpu(self) -> int:
        return min(int(super().n_gpu), 1)


def batch_of(spec: TrainingSpec, halved: int) -> Batch:
    """The specification's, after memory ran out so many times. Raises `OutOfMemory` where one sample is too many.

    A step has the same samples as before, so that a training goes on where it was: a micro-batch becomes the largest
    part of those that go into one now which is not above its half.
    """
    micro, together = spec.micro_batch, spec.micro_batch * spec.accumulation
    for _ in range(halved):
        if micro == 1:
            raise OutOfMemory("memory ran out with one sample at a time: lower max_pixels or max_tokens, or use lora")
        micro = max(size for size in range(1, micro // 2 + 1) if together % size == 0)
    return Batch(micro, together // micro)


def arguments(spec: TrainingSpec, batch: Batch, numbers: Numbers, plan: Plan, prepared: Prepared) -> OneCard:
    """How transformers' Trainer is to train."""
    cuda, measured = torch.cuda.is_available(), len(prepared.held_out) > 0
    more: dict[str, Any] = {}
    if spec.schedule in {"reduce_lr_on_plateau", "greedy"}:
        more |= {"metric_for_best_model": "eval_loss", "greater_is_better": False}
    if spec.sharding == "fsdp" and spec.gpus > 1:
        more |= {"fsdp": "full_shard auto_wrap", "fsdp_config": {"state_dict_type": "FULL_STATE_DICT"}}
    return OneCard(
        output_dir=str(plan.output / "checkpoints"),
        per_device_train_batch_size=batch.micro,
        per_device_eval_batch_size=batch.micro,
        gradient_accumulation_steps=batch.accumulation,
        num_train_epochs=spec.epochs,
        max_steps=spec.max_steps or -1,
        learning_rate=spec.highest_rate,
        lr_scheduler_type=spec.schedule,
        weight_decay=spec.weight_decay,
        adam_beta2=spec.beta2,
        max_grad_norm=spec.max_grad_norm,
        optim=spec.optimizer,
        seed=spec.seed,
        data_seed=spec.seed,
        bf16=numbers.autocast is torch.bfloat16,
        fp16=numbers.autocast is torch.float16,
        activation_checkpointing=spec.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if spec.gradient_checkpointing else None,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is no number has to be seen
        save_strategy="steps" if plan.checkpoints else "no",
        save_steps=spec.checkpoint_steps,
        save_total_limit=spec.keep_checkpoints,
        eval_strategy="steps" if measured else "no",
        eval_steps=spec.checkpoint_steps if measured else None,
        prediction_loss_only=True,
        dataloader_num_workers=2 if cuda else 0,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        ddp_backend="gloo" if spec.gpus > 1 and not cuda else None,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not cuda,
        **more,
    )


class Shape(NamedTuple):
    """A schedule as transformers takes it."""

    name: str
    warm: int  # steps in which the learning rate rises
    own: dict[str, Any]  # what else it must know


def shape_of_schedule(spec: TrainingSpec, steps: int) -> Shape:
    """How the learning rate goes in so many steps.

    The first of these steps learns nothing, so that few steps have none.
    """
    warm = int(spec.warmup * steps)
    shapes: dict[str, dict[str, Any]] = {
        "warmup_stable_decay": {"num_decay_steps": math.ceil(spec.decay * steps)},
        "cosine_with_min_lr": {"min_lr_rate": spec.lowest},
        "cosine_warmup_with_min_lr": {"min_lr_rate": spec.lowest},
        "greedy": {"min_lr": spec.lowest * spec.highest_rate, "max_lr": spec.highest_rate},
    }
    own = shapes.get(spec.schedule, {})
    # transformers' own does not warm up.
    return Shape("constant_with_warmup" if spec.schedule == "constant" and warm else spec.schedule, warm, own)
