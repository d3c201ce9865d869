"""Telling apart that memory ran out or that a GPU is lost, and giving back what is free. It knows no model."""

import ctypes
import gc
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from vlyard.errors import OutOfMemory

# What CUDA answers from then on, whatever is asked: its context is gone until the process ends.
_LOST = (
    "device-side assert", "illegal memory access", "illegal instruction", "misaligned address",
    "unspecified launch failure", "uncorrectable ECC error",
)  # fmt: skip

_Answer = TypeVar("_Answer")


def is_device_lost(error: BaseException) -> bool:
    """Whether it says that this process can use its GPU no more."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST)


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
