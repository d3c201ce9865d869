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


def batch_of(spec: TrainingSpec, halved: int) -> Batch:
    """The specification's, after memory ran out so many times. Raises `OutOfMemory` where one sample is too many."""
    micro, accumulation = spec.micro_batch, spec.accumulation
    for _ in range(halved):
        if micro == 1:
            raise OutOfMemory("memory ran out with one sample at a time: lower max_pixels or max_tokens, or use lora")
        micro, accumulation = math.ceil(micro / 2), accumulation * 2
    return Batch(micro, accumulation)


def arguments(spec: TrainingSpec, batch: Batch, numbers: Numbers, plan: Plan, prepared: Prepared) -> TrainingArguments:
    """How transformers' Trainer is to train."""
    cuda, measured = torch.cuda.is_available(), len(prepared.held_out) > 0
    more: dict[str, Any] = {}
    if spec.sharding == "fsdp" and spec.gpus > 1:
        more |= {"fsdp": "full_shard auto_wrap", "fsdp_config": {"state_dict_type": "FULL_STATE_DICT"}}
    return TrainingArguments(
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
        save_strategy="steps",
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


def shape_of_schedule(spec: TrainingSpec, steps: int) -> tuple[int, dict[str, Any]]:
    """Steps in which the learning rate rises, and what else the schedule must know.

    The first of these steps learns nothing, so that few steps have none.
    """
    warm = int(spec.warmup * steps)
    own = {"num_decay_steps": math.ceil(spec.decay * steps)} if spec.schedule == "warmup_stable_decay" else {}
    return warm, own
