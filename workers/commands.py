"""`vlyard worker`."""

import re
from collections.abc import Mapping
from typing import Annotated

import typer

from control.settings import load_settings
from vlyard.errors import Complaint, InvalidInput
from vlyard.jobs.kinds import KINDS, Device
from vlyard.jobs.view import POOL_PATTERN

# Of two messages with questions, the one's pictures are read while the other's are answered.
_SLOTS: Mapping[Device, int] = {Device.CPU: 1, Device.GPU: 2}


def worker(
    device: Annotated[Device, typer.Option(help="Which kinds of jobs it may run: those of the GPU, or of the CPU.")],
    pool: Annotated[str, typer.Option(help="The pool that it works for.")] = "default",
    kinds: Annotated[str, typer.Option(help="The kinds that it runs, with commas; default: all of its device.")] = "",
    slots: Annotated[
        int | None, typer.Option(min=1, help="How many messages it works on at once; default: 2 on a GPU, else 1.")
    ] = None,
    name: Annotated[str, typer.Option(help="Its name; default: device, process and host.")] = "",
) -> None:
    """Run a worker."""
    _expect_a_pools_name(pool)
    from control.logs import configure  # here, because every `vlyard` command reads this file
    from workers.app import Post, default_name, work

    configure()
    post = Post(pool, device, _kinds(device, kinds), slots or _SLOTS[device], name or default_name(device))
    work(load_settings(), post)


def _expect_a_pools_name(name: str) -> None:
    """Raise `InvalidInput` where no job could name the pool."""
    if not re.fullmatch(POOL_PATTERN, name):
        fix = "use small letters, digits and -, 63 at most, beginning with a letter or digit"
        complaint = Complaint("--pool", f"no job can name a pool {name!r}", fix)
        raise InvalidInput("this worker cannot work there", [complaint])


def _kinds(device: Device, text: str) -> list[str]:
    own = [kind.name for kind in KINDS.values() if kind.device is device]
    asked = [name.strip() for name in text.split(",") if name.strip()] or own
    complaints = [
        Complaint("--kinds", f"{name} is not a kind of the {device}", f"choose from {', '.join(own)}")
        for name in asked
        if name not in own
    ]
    if complaints:
        raise InvalidInput("this worker cannot run that", complaints)
    return asked
