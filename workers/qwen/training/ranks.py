"""A training in several processes of one machine, started by torchrun. It knows no model.

Every process holds a connection to the one that started them. The one that leads tells through it what a listener wants
to hear, and ends when it is closed; the others end with torchrun, so that none is left on a GPU whatever happens.
"""

import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection, wait
from multiprocessing.connection import Listener as Door
from pathlib import Path
from typing import Any

from vlyard.errors import ChildDied, VLyardError
from workers.qwen.training.plan import Learned, Listener, Plan, Step

PLACE, SECRET = "VLYARD_TRAINING_SOCKET", "VLYARD_TRAINING_SECRET"
_SECONDS_TO_END = 30.0
_ANSWERED = frozenset({"saved", "stopping"})  # what the one that tells waits for an answer to


@dataclass
class Ranks:
    """The processes of one training, as the one that started them sees them."""

    listener: Listener
    learned: Learned | None = None
    failure: Exception | None = None
    connections: list[Connection] = field(default_factory=list)

    def hear(self, connection: Connection) -> None:
        """One message of a process."""
        try:
            word, *told = connection.recv()
        except (EOFError, OSError):
            self.connections.remove(connection)
            return
        answer = self._answers[word](*told)
        if word in _ANSWERED:
            connection.send(answer)

    @property
    def _answers(self) -> dict[str, Callable[..., Any]]:
        return {
            "step": self.listener.step,
            "saved": self.listener.saved,
            "say": self.listener.say,
            "stopping": self.listener.stopping,
            "learned": self._end,
            "failed": self._fail,
        }

    def _end(self, learned: Learned) -> None:
        self.learned = learned

    def _fail(self, error: Exception) -> None:
        self.failure = self.failure or error


def learn_in_ranks(plan: Plan, listener: Listener) -> Learned:
    """Train in as many processes as the plan asks for. Raises what the first of them raised, and `ChildDied`."""
    with tempfile.TemporaryDirectory(prefix="vlyard-ranks-") as folder:
        written = Path(folder) / "plan.json"
        written.write_text(plan.model_dump_json(), encoding="utf-8")
        secret = secrets.token_hex(32)
        address = str(Path(folder) / "socket")
        with Door(address, "AF_UNIX", authkey=secret.encode()) as door:
            process = _torchrun(plan, written, {PLACE: address, SECRET: secret})
            ranks = Ranks(listener)
            threading.Thread(target=_let_in, args=(door, ranks), daemon=True).start()
            try:
                _follow(process, ranks)
            finally:
                for connection in ranks.connections:
                    connection.close()
                _end(process)
    if ranks.failure is not None:
        raise ranks.failure
    if ranks.learned is None:
        raise ChildDied(f"the training's processes ended with status {process.returncode} before they were done")
    return ranks.learned


def _torchrun(plan: Plan, written: Path, told: dict[str, str]) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={plan.spec.gpus}"]
    return subprocess.Popen([*words, "-m", "workers.qwen.training.rank", str(written)], env={**os.environ, **told})


def _let_in(door: Door, ranks: Ranks) -> None:
    with suppress(OSError):  # the door was closed: all is over
        while True:
            ranks.connections.append(door.accept())


def _follow(process: "subprocess.Popen[bytes]", ranks: Ranks) -> None:
    while process.poll() is None or ranks.connections:
        for connection in wait(list(ranks.connections), timeout=0.05):
            ranks.hear(connection)  # type: ignore[arg-type]  # `wait` gives back what it was given
        if ranks.failure is not None:
            return
        if not ranks.connections:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- in a process of its own ----------------------------------------------------------------------------------


def speak(learn: Callable[[Plan, Listener], Learned], written: Path) -> None:
    """What each process does: learn, and tell the one that started it."""
    plan = Plan.model_validate_json(written.read_bytes())
    connection = Client(os.environ[PLACE], "AF_UNIX", authkey=os.environ[SECRET].encode())
    leads = os.environ["RANK"] == "0"
    lock = threading.Lock()

    def ask(*words: Any) -> Any:
        with lock:
            connection.send(words)
            return connection.recv() if words[0] in _ANSWERED else None

    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    try:
        learned = learn(plan, _telling(ask) if leads else _silent())
    except Exception as error:  # noqa: BLE001  # the one that started it is told of everything
        with suppress(OSError):  # another one's failure was heard first
            ask("failed", error if isinstance(error, VLyardError) else _as_sent(error))
        os._exit(1)  # the others may wait for it, and torchrun ends them
    if leads:
        ask("learned", learned)


def _as_sent(error: Exception) -> Exception:
    """An error that the other process understands: what the system refused, such as a full disk, or words."""
    if isinstance(error, OSError) and error.errno:
        return OSError(error.errno, error.strerror)
    return VLyardError(f"{type(error).__name__}: {error}")


def _telling(ask: Callable[..., Any]) -> Listener:
    def step(step: Step) -> None:
        ask("step", step)

    return Listener(
        step=step,
        saved=lambda folder, number: ask("saved", folder, number),
        say=lambda line: ask("say", line),
        stopping=lambda: bool(ask("stopping")),
    )


def _silent() -> Listener:
    def nothing(*_: object) -> None:
        """Another process tells it."""

    return Listener(step=nothing, saved=nothing, say=nothing, stopping=lambda: False)


def _end_with_the_starter() -> None:
    """torchrun puts its processes into sessions of their own, where no signal to the starter's group reaches them."""
    starter = os.getppid()
    while os.getppid() == starter:
        threading.Event().wait(1)
    os._exit(1)
