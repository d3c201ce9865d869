"""One of several processes that train together: `python -m workers.qwen.training.rank PLAN`, started by torchrun."""

import sys
from pathlib import Path

import torch

from workers.qwen.training.learning import learn_here
from workers.qwen.training.ranks import speak


def main() -> None:
    """Learn what the plan says, together with the others."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    speak(learn_here, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
