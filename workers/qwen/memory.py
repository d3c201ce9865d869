"""Telling apart that memory ran out, and giving back what is free. It knows no model."""

import ctypes
import gc
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from vlyard.errors import OutOfMemory

_Answer = TypeVar("_Answer")

# What torch says where it has no error class of its own for it: its allocator for the CPU, CUDA itself, and cuBLAS.
_SHORT = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def give_back_freed_memory() -> None:
    """To the system: glibc keeps freed memory for itself, and for every thread some of its own."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)


def naming_out_of_memory(work: Callable[[], _Answer]) -> _Answer:
    """Do the work; where memory runs out, free what it held and raise `OutOfMemory`.

    A function and not a `with` block: while a `with` block ends, the frames that hold the tensors are still alive.
    """
    try:
        return work()
    except (MemoryError, torch.OutOfMemoryError) as error:
        said = str(error) or type(error).__name__
    except RuntimeError as error:
        if not any(words in str(error) for words in _SHORT):
            raise
        said = str(error)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise OutOfMemory(f"memory ran out: {said.splitlines()[0]}")
