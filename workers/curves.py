"""How a training went, as one picture: the loss, the held-out loss and score, and the learning rate, by step."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from workers.qwen.training.plan import Step

_SMOOTHING = 0.9  # of the running mean that is drawn over the loss
_SIZE, _DPI = (9, 5), 120  # inches


def draw_curves(steps: Sequence[Step], target: Path) -> None:
    """Write the picture as a PNG of 1080 × 600 pixels."""
    from matplotlib.figure import Figure  # heavy, and needed once

    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    at, losses = [step.step for step in steps], [step.loss for step in steps]
    axes.plot(at, losses, color="0.8", linewidth=0.8, label="loss")
    axes.plot(at, _smooth(losses), color="tab:blue", label="loss, smoothed")
    measured = {step.step: step.held_out_loss for step in steps if step.held_out_loss is not None}
    if measured:
        axes.plot(
            list(measured), list(measured.values()), color="tab:red", marker="o", markersize=4, label="held-out loss"
        )
    scored = {step.step: step.scores.f1 for step in steps if step.scores is not None}
    if scored:
        # From 0 to 1, as the loss usually is once a model knows the form of an answer.
        axes.plot(
            list(scored), list(scored.values()), color="tab:orange", marker="s", markersize=4, label="held-out F1"
        )
    axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
    rates = axes.twinx()
    rates.plot(at, [step.learning_rate for step in steps], color="tab:green", linewidth=0.8, linestyle=":")
    rates.set_ylabel("learning rate (dotted)")
    rates.set_ylim(0, None)
    axes.legend(loc="upper right")
    figure.savefig(target)


def _smooth(values: Sequence[float]) -> list[float]:
    return list(accumulate(values, lambda mean, value: _SMOOTHING * mean + (1 - _SMOOTHING) * value))
