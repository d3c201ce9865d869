"""What `vlyard doctor` looks at where models run: torch, its GPUs, FlashAttention, and a worker's own self-test.

Each check imports what it looks at, because an import of torch takes its time and counts as part of the check.
"""

from collections.abc import Iterator
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vlyard.checks import Check, Finding, broken, ok, skipped
from vlyard.extras import installing

if TYPE_CHECKING:
    from workers.qwen.selftest import SelfTest

_IMPORTING = 120.0  # seconds, on a machine that reads torch from a slow disk
_FIX = f"{installing('worker')}, again, in versions that fit together"


def checks() -> Iterator[Check]:
    """The checks of a machine that runs models; one that says so where it does not."""
    if find_spec("torch") is None:
        missing = f"torch is not installed: {installing('worker')}, where models shall run"
        yield Check("torch", partial(skipped, missing))
        return
    yield Check("torch", _torch, _FIX, _IMPORTING)
    yield Check("attention", _attention, _FIX, _IMPORTING)
    yield Check("self-test", _self_test, _FIX, _IMPORTING)


@cache
def _tested() -> "SelfTest":
    from workers.qwen.selftest import self_test

    return self_test()


def _torch() -> Finding:
    import torch

    from workers.qwen.selftest import devices

    if torch.version.cuda and not torch.cuda.is_available():
        return ok(f"torch {torch.__version__} is built for CUDA and sees no GPU; {', '.join(devices())}")
    return ok(f"torch {torch.__version__}; {', '.join(devices())}")


def _attention() -> Finding:
    """Which attention runs and why, and what became of importing flash-attn."""
    for check in _tested().checks:
        if check.name == "attention":
            said = f"{check.note}; {_flash_attention()}"
            return ok(said) if check.ok else broken(said, _FIX)
    return broken("no model could be loaded to see which attention runs", _FIX)


def _flash_attention() -> str:
    try:
        return f"flash-attn {import_module('flash_attn').__version__} can be imported"
    except ModuleNotFoundError:
        return "flash-attn is not installed"
    except (ImportError, OSError) as error:
        return f"flash-attn cannot be imported: {error}"


def _self_test() -> Finding:
    found = _tested()
    failed = [f"{check.name}: {check.note}" for check in found.checks if not check.ok]
    if failed:
        return broken("; ".join(failed), _FIX)
    return ok(f"{len(found.checks)} of {len(found.checks)} in {found.seconds:.1f} s")
