"""What happens between steps: telling how it goes, handing over checkpoints, stopping. It knows no model."""

import math
import resource
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from vlyard.jobs.training import Scores, TrainingSpec
from workers.qwen.training.checkpoints import keep_best
from workers.qwen.training.plan import Listener, Step

_WINDOW = 20  # steps that the speed is told from
_OVERFLOWS = 20  # in a row; torch's scale begins at 2¹⁶, and is halved by each
_F1 = "held_out_f1"  # in the Trainer's history


@dataclass
class Narrator(TrainerCallback):
    """Tells a listener of every step, in the process that leads."""

    listener: Listener
    spec: TrainingSpec
    samples_a_step: int
    tokens_a_sample: float
    best: Path  # where the best weights so far are kept
    ask: Callable[[], Scores] | None = None  # has the model answer held-out questions
    at_the_end: bool = False  # of all steps: what is measured now is the result
    stopped: bool = False  # because the listener said so
    stopped_early: bool = False
    lost: str | None = None  # what is no number any more, and since when
    held_out_loss: float | None = None  # as it was measured last
    measured_at: int | None = None  # the step after which that was
    scores: Scores | None = None
    spent: float = 0.0  # seconds of all steps
    _began: float = 0.0
    _overflows: int = 0  # in a row
    _pending: Step | None = None
    _ends: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW + 1))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._began = time.monotonic()
        self._ends.append(self._began)
        # A checkpoint may be the last one's: what remained to be done was to save the model.
        self.stopped_early = self._is_at_its_best(state.log_history)
        control.should_training_stop = self.stopped_early or state.global_step >= state.max_steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._flush()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if agreed(self.listener.stopping()):
            self.stopped = control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        if not logs or "loss" not in logs:
            return
        loss, norm = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
        if self._is_lost(loss, norm):
            # Before the checkpoint of the same step is written.
            self.lost = f"at step {state.global_step} the loss is {loss} and the gradients' norm is {norm}"
            control.should_training_stop = True
            control.should_evaluate = control.should_save = False
            return
        self._ends.append(time.monotonic())
        spent = max(self._ends[-1] - self._ends[0], 1e-9)
        rate = self.samples_a_step * (len(self._ends) - 1) / spent
        self._pending = Step(
            step=state.global_step,
            steps=state.max_steps,
            epoch=float(logs.get("epoch", 0.0)),
            loss=loss,
            learning_rate=float(logs["learning_rate"]),
            grad_norm=norm if math.isfinite(norm) else None,
            samples_per_second=rate,
            tokens_per_second=rate * self.tokens_a_sample,
            memory_bytes=peak_bytes(),
        )

    def _is_lost(self, loss: float, norm: float) -> bool:
        """Whether there is nothing to be learned any more.

        fp16 makes a few gradients too large for its numbers while it looks for a scale: such a step is left out.
        """
        self._overflows = 0 if math.isfinite(norm) else self._overflows + 1
        most = _OVERFLOWS if self.spec.precision == "fp16" else 0
        return not math.isfinite(loss) or self._overflows > most

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:  # noqa: ARG002
        if not metrics:
            return
        self.held_out_loss, self.measured_at = float(metrics["eval_loss"]), state.global_step
        if self.ask is not None and (self.spec.evaluate == "checkpoint" or (self.spec.evaluate and self.at_the_end)):
            self.scores = self.ask()
            state.log_history.append({_F1: self.scores.f1, "step": state.global_step})
        if self._pending is not None:
            more = {"held_out_loss": self.held_out_loss, "scores": self.scores}
            self._pending = self._pending.model_copy(update=more)
        if not self.at_the_end and agreed(self._is_at_its_best(state.log_history)):
            self.stopped_early = control.should_training_stop = True

    def _is_at_its_best(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether `stop_after` measurements brought nothing better. The history goes with checkpoints."""
        measured = self._measured(history)
        if self.spec.stop_after is None or not measured:
            return False
        values = [value for _, value in measured]
        return len(values) - 1 - values.index(min(values)) >= self.spec.stop_after

    def best_step(self, history: Sequence[Mapping[str, Any]]) -> int | None:
        """The step at which what `stop_on` names was best; None where nothing is to be stopped, or was measured."""
        measured = self._measured(history)
        if self.spec.stop_after is None or not measured:
            return None
        return min(measured, key=lambda each: each[1])[0]

    def _measured(self, history: Sequence[Mapping[str, Any]]) -> Sequence[tuple[int, float]]:
        """The steps at which it was measured, and what counts, of which less is better."""
        name, sign = ("eval_loss", 1) if self.spec.stop_on == "loss" else (_F1, -1)
        found = [(each["step"], float(each[name])) for each in history if name in each]
        return [(step, sign * value if math.isfinite(value) else math.inf) for step, value in found]

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._flush()
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.spec.stop_after is not None:
            keep_best(folder, self.best, is_best=self.best_step(state.log_history) == state.global_step)
        self.listener.saved(folder, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.spent = time.monotonic() - self._began
        self._flush()

    def _flush(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self.listener.step(pending)


def agreed(wish: bool) -> bool:
    """What the process that leads wishes, in all processes that train together."""
    if not (dist.is_available() and dist.is_initialized()):
        return wish
    told = [wish]
    dist.broadcast_object_list(told)
    return told[0]


def wait_for_all() -> None:
    """Until all processes that train together are here."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def peak_bytes() -> int:
    """The most memory so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux tells it in KiB
