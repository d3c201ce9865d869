"""A training from its plan to a tuned model. It knows no queue and no store.

1. choose numbers   2. read and tokenise the samples   3. read the base, and choose what learns   4. train, from the
last checkpoint where there is one   5. save the model
"""

import hashlib
from pathlib import Path
from typing import Any

import orjson
import torch
from transformers import PrinterCallback, Qwen3VLForConditionalGeneration, TrainingArguments
from transformers.utils import logging as transformers_logging

from vlyard.errors import Complaint, InvalidInput
from workers.qwen.checkpoint import check_checkpoint
from workers.qwen.loading import Model, Processor, attention_here
from workers.qwen.memory import naming_out_of_memory
from workers.qwen.training.asking import score_held_out
from workers.qwen.training.callbacks import Narrator, peak_bytes
from workers.qwen.training.checkpoints import take_best, whole_ones
from workers.qwen.training.llama_factory import save_recipe
from workers.qwen.training.parts import let_learn
from workers.qwen.training.plan import Learned, Listener, Plan
from workers.qwen.training.precision import Numbers, choose_numbers, in_four_bits
from workers.qwen.training.preparing import Prepared, open_processor, prepare
from workers.qwen.training.ranks import learn_in_ranks
from workers.qwen.training.recipe import Batch, arguments, batch_of
from workers.qwen.training.saving import save_model, without_numbers
from workers.qwen.training.trainer import WholeTrainer

_LAST = 10  # the loss that is told is the mean over the last of so many parts of the steps
_SKIPPED = "unusable.jsonl"


def learn(plan: Plan, listener: Listener) -> Learned:
    """Train as planned, and write the model to `plan.output / "model"`.

    Where the loss is no number any more it goes back to the last checkpoint that is good, and says so. Raises
    `InvalidInput` where the base, the samples or the options will not do; and `OutOfMemory`.
    """
    if plan.spec.gpus > 1:
        _expect_gpus(plan.spec.gpus)
        return learn_in_ranks(plan, listener)
    return learn_here(plan, listener)


def learn_here(plan: Plan, listener: Listener) -> Learned:
    """The same in this process, alone or together with others that torchrun has started."""
    return naming_out_of_memory(lambda: _learn(plan, listener))


def _expect_gpus(wanted: int) -> None:
    if torch.cuda.is_available() and torch.cuda.device_count() < wanted:
        what = f"this worker has {torch.cuda.device_count()} GPUs, and {wanted} are wanted"
        raise InvalidInput("There are not enough GPUs", [Complaint("/spec/gpus", what, "lower it")])


def _learn(plan: Plan, listener: Listener) -> Learned:
    spec, cuda = plan.spec, torch.cuda.is_available()
    numbers, batch = choose_numbers(spec, cuda=cuda), batch_of(spec, plan.halved)
    check_checkpoint(plan.base)
    processor = open_processor(plan.base)
    prepared = prepare(spec, plan.dataset, processor)
    listener.say(f"{len(prepared.learned)} samples to learn, {len(prepared.held_out)} held out")
    how = arguments(spec, batch, numbers, plan, prepared)
    torch.manual_seed(spec.seed)  # an adapter begins with random numbers
    model = let_learn(_read(plan, numbers, how.device), spec)
    narrator = _narrator(plan, prepared, listener, batch)
    trainer = _trainer(plan, model, prepared, narrator, how)
    narrator.ask = lambda: score_held_out(trainer.model, processor, prepared.held_out, spec.evaluate_samples)
    if plan.resume and spec.stop_after is not None and trainer.is_world_process_zero():
        take_best(plan.resume, narrator.best)
    trainer.train(resume_from_checkpoint=str(plan.resume) if plan.resume else None)
    if not narrator.stopped or narrator.lost:
        _end(plan, trainer, narrator, prepared, processor)
    return _told(plan, trainer, narrator, prepared, numbers)


def _end(plan: Plan, trainer: WholeTrainer, narrator: Narrator, prepared: Prepared, processor: Processor) -> None:
    """Choose the weights that are left, measure and save them."""
    narrator.lost = narrator.lost or _told_of_numbers(trainer)
    if narrator.lost:
        if _go_back(plan, trainer):
            save_model(trainer, processor, plan, prepared)
        return
    state = trainer.state
    best = narrator.best_step(state.log_history)
    goes_back = best not in {None, state.global_step} and plan.checkpoints
    if goes_back:
        trainer.take_weights(narrator.best)
    narrator.at_the_end = True
    measured = narrator.measured_at == state.global_step and not goes_back
    if len(prepared.held_out) and (plan.spec.evaluate == "end" or not measured):
        trainer.evaluate()
    save_model(trainer, processor, plan, prepared)
    if trainer.is_world_process_zero():
        save_recipe(plan, prepared, processor, state.max_steps)


def _told_of_numbers(trainer: WholeTrainer) -> str | None:
    name = without_numbers(trainer.model)
    return f"the tensor {name} holds NaN or infinity at the end" if name else None


def _go_back(plan: Plan, trainer: WholeTrainer) -> bool:
    """To the last checkpoint whose weights are numbers; whether there is one."""
    there = [*whole_ones(Path(str(trainer.args.output_dir))), *([plan.resume] if plan.resume else [])]
    for checkpoint in there:
        trainer.go_back(checkpoint)
        if without_numbers(trainer.model) is None:
            return True
    return False


def _read(plan: Plan, numbers: Numbers, device: torch.device) -> Model:
    quiet: Any = transformers_logging.disable_progress_bar
    quiet()
    reader: Any = Qwen3VLForConditionalGeneration
    return reader.from_pretrained(
        plan.base,
        dtype=numbers.weights,
        attn_implementation=attention_here(numbers.autocast or numbers.weights).name,
        quantization_config=in_four_bits() if plan.spec.method == "qlora" else None,
        # Weights are brought into four bits on a card, where they stay: each process has its own.
        device_map={"": device} if plan.spec.method == "qlora" else None,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )


def _narrator(plan: Plan, prepared: Prepared, listener: Listener, batch: Batch) -> Narrator:
    spec, learned = plan.spec, prepared.learned
    return Narrator(
        listener,
        spec,
        samples_a_step=batch.micro * batch.accumulation * spec.gpus,
        tokens_a_sample=sum(learned.lengths) / len(learned),
        best=plan.output / "best",
    )


def _trainer(plan: Plan, model: Model, prepared: Prepared, narrator: Narrator, how: TrainingArguments) -> WholeTrainer:
    if plan.spec.gradient_checkpointing and plan.spec.method != "full":
        model.enable_input_require_grads()
    model.config.text_config.use_cache = False
    trainer = WholeTrainer(
        model,
        how,
        data_collator=prepared.collate,
        train_dataset=prepared.learned,
        eval_dataset=prepared.held_out if len(prepared.held_out) else None,
        callbacks=[narrator],
    )
    trainer.spec = plan.spec
    # Qwen3-VL takes the number of tokens in a step and says that it does not; without it every micro-batch would weigh
    # the same, however few tokens are learned of it.
    trainer.model_accepts_loss_kwargs = True
    trainer.remove_callback(PrinterCallback)
    return trainer


def _told(plan: Plan, trainer: Any, narrator: Narrator, prepared: Prepared, numbers: Numbers) -> Learned:
    template = str(plan.spec.chat_template or prepared.learned.processor.chat_template)
    state, first = trainer.state, _resumed_at(plan)
    losses = [each["loss"] for each in state.log_history if "loss" in each]
    last = losses[-max(1, len(losses) // _LAST) :]
    rate = (state.global_step - (first or 0)) * narrator.samples_a_step / narrator.spent
    weights = list(trainer.model.parameters())
    return Learned(
        stopped=narrator.stopped,
        lost=narrator.lost,
        samples=len(prepared.learned),
        held_out=len(prepared.held_out),
        unusable=_list_unusable(plan, prepared),
        unusable_count=len(prepared.unusable),
        steps=state.global_step,
        epochs=float(state.epoch or 0.0),
        loss=sum(last) / len(last),
        held_out_loss=narrator.held_out_loss,
        scores=narrator.scores,
        stopped_early=narrator.stopped_early,
        best_step=narrator.best_step(state.log_history) if plan.checkpoints else None,
        resumed_at=first,
        micro_batch=trainer.args.per_device_train_batch_size,
        accumulation=trainer.args.gradient_accumulation_steps,
        parameters=sum(weight.numel() for weight in weights),
        trained_parameters=sum(weight.numel() for weight in weights if weight.requires_grad),
        min_pixels=prepared.min_pixels,
        max_pixels=prepared.max_pixels,
        prompt=prepared.prompt,
        template_sha256=hashlib.sha256(template.encode()).hexdigest(),
        precision=numbers.name,
        device="cuda" if torch.cuda.is_available() else "cpu",
        seconds=narrator.spent,
        samples_per_second=rate,
        tokens_per_second=rate * narrator.tokens_a_sample,
        peak_bytes=peak_bytes(),
    )


def _resumed_at(plan: Plan) -> int | None:
    if plan.resume is None:
        return None
    return int(orjson.loads((plan.resume / "trainer_state.json").read_bytes())["global_step"])


def _list_unusable(plan: Plan, prepared: Prepared) -> Path | None:
    if not prepared.unusable:
        return None
    path = plan.output / _SKIPPED
    lines = (orjson.dumps(vars(each), option=orjson.OPT_APPEND_NEWLINE) for each in prepared.unusable)
    path.write_bytes(b"".join(lines))
    return path
