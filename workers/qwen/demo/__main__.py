"""`python -m workers.qwen.demo --output FOLDER`: make the demo checkpoint from nothing, and measure it."""

import argparse
import logging
from pathlib import Path

import torch

from workers.qwen.demo.architecture import build
from workers.qwen.demo.measuring import measure
from workers.qwen.demo.training import Recipe, train
from workers.qwen.loading import load_model

_PICTURES, _HELD_OUT = 128, 99  # how many pictures of which seed it is measured on: not the training's

log = logging.getLogger("workers.qwen.demo")


def main() -> None:
    """Make the checkpoint, load it as a worker does, and say how well it finds things."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    make_checkpoint(arguments.output, Recipe(steps=arguments.steps, seed=arguments.seed))
    log.info("on %d other pictures: %s", _PICTURES, measure(load_model(arguments.output), _PICTURES, _HELD_OUT))


def make_checkpoint(output: Path, recipe: Recipe) -> None:
    """Build, train in fp32, and save as bf16, which every device loads without a change to the numbers."""
    model, processor = build(recipe.seed)
    train(model, processor, recipe)
    model.to(torch.bfloat16).save_pretrained(output)
    processor.save_pretrained(output)
    for file in output.iterdir():
        file.chmod(0o644)  # the weights are saved for their owner alone, and others serve them


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the demo checkpoint: a tiny Qwen3-VL that finds shapes.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
