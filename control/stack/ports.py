"""Free ports on the loopback address."""

import random
import socket
from collections.abc import Collection, Iterator

LOOPBACK = "127.0.0.1"
# Below the range from which Linux and macOS take the ports of outgoing connections, also 10000 higher up.
_RANGE = range(12_000, 22_000)


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a closed connection is no obstacle
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def free_port(avoid: Collection[int], also_free: int = 0) -> int:
    """A free loopback port that is not in `avoid`, such that the one `also_free` higher is free too."""
    return next(
        port
        for port in _shuffled()
        if port not in avoid and is_free(port) and (not also_free or is_free(port + also_free))
    )


def _shuffled() -> Iterator[int]:
    # By chance, so that stacks which start at the same moment do not run after the same port.
    yield from random.sample(_RANGE, len(_RANGE))
