"""`python -m workers.qwen.demo --output FOLDER`: make the demo checkpoint from nothing, and measure it."""

import argparse
import logging
from pathlib import Path

import torch

from workers.qwen.demo.architecture import build
from workers.qwen.demo.training import Recipe, train

log = logging.getLogger("workers.qwen.demo")


def main() -> None:
    """Build, train, save as bf16."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(steps=arguments.steps, seed=arguments.seed)
    model, processor = build(recipe.seed)
    train(model, processor, recipe)
    model.to(torch.bfloat16).save_pretrained(arguments.output)
    processor.save_pretrained(arguments.output)
    for file in arguments.output.iterdir():
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
