"""Telling apart that memory ran out. It knows no model."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from vlyard.errors import OutOfMemory

_Answer = TypeVar("_Answer")


def naming_out_of_memory(work: Callable[[], _Answer]) -> _Answer:
    """Do the work; where memory runs out, free what it held and raise `OutOfMemory`.

    A function and not a `with` block: while a `with` block ends, the frames that hold the tensors are still alive.
    """
    try:
        return work()
    except (MemoryError, torch.OutOfMemoryError) as error:
        said = str(error) or type(error).__name__
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # torch's allocator for the CPU has no error class of its own
            raise
        said = str(error)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise OutOfMemory(f"memory ran out: {said.splitlines()[0]}")
