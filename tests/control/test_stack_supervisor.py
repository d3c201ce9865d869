"""The supervisor and its guard, with real processes and real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from control.stack.guard import Group, start_mark
from control.stack.stack import Stack
from control.stack.supervisor import Process, Supervisor
from vlyard.errors import Conflict, Unavailable

# Starts the servers of a stack, prints their pids, and waits for its end.
HOLDER = """
import json, sys, time
from pathlib import Path
from control.stack.stack import Stack
with Stack(Path(sys.argv[1]), {"PATH": sys.argv[2]}) as stack:
    print(json.dumps(stack.supervisor.pids()), flush=True)
    time.sleep(600)
"""
STUBBORN = (
    "trap '' TERM INT; (trap '' TERM INT; while :; do sleep 1; done) & echo $! > child; while :; do sleep 1; done"
)


def script(name: str, text: str, folder: Path, ready: Callable[[], bool] = lambda: True) -> Process:
    return Process(name, ("/bin/sh", "-c", text), ready, folder=folder, patience=2, grace=0.5)


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def family(pids: dict[str, int]) -> set[int]:
    """These processes and all their descendants."""
    return set(pids.values()) | {
        child.pid for pid in pids.values() for child in psutil.Process(pid).children(recursive=True)
    }


def sockets_outside(data: Path) -> list[Path]:
    """What SeaweedFS keeps in the system's temporary folder as long as it runs."""
    ports = json.loads((data / "ports.json").read_text())
    numbers = [port + 10_000 for name, port in ports.items() if name.startswith("seaweedfs")]
    return [path for number in numbers for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock")]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, said: list[str]) -> Iterator[Supervisor]:
    with Supervisor(tmp_path / "logs", said.append) as supervisor:
        yield supervisor


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, int]]]:
    """A process that holds a stack's servers, and the pids in it."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "data"), os.environ["PATH"]]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
        process.kill()


def test_a_stack_that_ends_leaves_no_process(tmp_path: Path, own_environment: dict[str, str]) -> None:
    with Stack(tmp_path / "data", own_environment) as stack:
        started = family(stack.supervisor.pids())
        assert all(map(is_alive, started))

    assert sockets_outside(tmp_path / "data") == []
    assert [pid for pid in started if is_alive(pid)] == []


def test_a_killed_supervisor_leaves_no_orphan_and_the_next_one_has_the_folder(
    holder: tuple[subprocess.Popen[str], dict[str, int]], tmp_path: Path, own_environment: dict[str, str]
) -> None:
    process, pids = holder
    started = family(pids)
    assert {"guard", "postgres", "valkey", "seaweedfs"} <= pids.keys()

    process.send_signal(signal.SIGKILL)

    # without a pause: the next one waits for the guard's work
    with Stack(tmp_path / "data", own_environment) as stack:
        assert [pid for pid in started if is_alive(pid)] == []
        assert not started & set(stack.supervisor.pids().values())


def test_the_guard_alone_clears_away_what_a_killed_supervisor_left(
    holder: tuple[subprocess.Popen[str], dict[str, int]], tmp_path: Path
) -> None:
    process, pids = holder
    started = family(pids)
    assert sockets_outside(tmp_path / "data")

    process.send_signal(signal.SIGKILL)

    assert eventually(lambda: not any(map(is_alive, started)), 10)
    assert eventually(lambda: not sockets_outside(tmp_path / "data"))


def test_a_second_stack_beside_the_first_is_refused(
    holder: tuple[subprocess.Popen[str], dict[str, int]], tmp_path: Path, own_environment: dict[str, str]
) -> None:
    process, pids = holder

    with pytest.raises(Conflict, match=f"in use by the stack of process {process.pid}"):
        Stack(tmp_path / "data", own_environment).__enter__()

    assert all(map(is_alive, pids.values()))


def test_a_process_that_ends_while_it_starts_is_reported_with_its_last_words(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    process = script("clerk", "echo the drawer is locked; exit 3", tmp_path, ready=lambda: False)

    with pytest.raises(Unavailable) as failure:
        supervisor.start(process)

    assert "clerk ended with code 3" in str(failure.value)
    assert "the drawer is locked" in str(failure.value)


def test_a_process_that_is_not_ready_in_time_is_reported_with_its_last_words(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    process = script("clerk", "echo still looking; sleep 60", tmp_path, ready=lambda: False)

    with pytest.raises(Unavailable, match=r"clerk was not ready within[^|]*\| still looking"):
        supervisor.start(process)


def test_a_process_that_ignores_its_stop_signal_is_killed_with_its_children(
    supervisor: Supervisor, tmp_path: Path, said: list[str]
) -> None:
    child = tmp_path / "child"
    supervisor.start(script("mule", STUBBORN, tmp_path, ready=child.exists))
    assert eventually(lambda: child.read_text().strip() != "")

    supervisor.end("mule")

    assert eventually(lambda: not is_alive(int(child.read_text())), 2)
    assert said == ["mule did not stop within 0 s and was killed"]


def test_batches_end_in_the_reverse_order_of_their_start(tmp_path: Path) -> None:
    with Supervisor(tmp_path / "logs") as supervisor:
        for name in ("first", "second", "third"):
            up = tmp_path / f"{name}.up"
            text = f"trap 'echo {name} >> ends; exit 0' TERM; : > {up.name}; while :; do sleep 0.05; done"
            supervisor.start(script(name, text, tmp_path, ready=up.exists))

    assert (tmp_path / "ends").read_text().split() == ["third", "second", "first"]


def test_a_process_that_dies_is_started_again_later_each_time(
    supervisor: Supervisor, tmp_path: Path, said: list[str]
) -> None:
    lives = tmp_path / "lives"
    supervisor.start(script("clerk", "echo here >> lives; sleep 60", tmp_path, ready=lives.exists))

    for life in (2, 3):
        supervisor.kill("clerk")
        while lives.read_text().count("here") < life:
            supervisor.tend()
            time.sleep(0.05)

    assert [line.split(". ")[0] for line in said] == [
        "clerk ended with code -9; it starts again in 1 s",
        "clerk ended with code -9; it starts again in 2 s",
    ]


def test_a_killed_guard_is_replaced_by_one_that_knows_the_running_processes(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.start(script("clerk", "sleep 60", tmp_path))
    first = supervisor.pids()["guard"]

    os.kill(first, signal.SIGKILL)
    while supervisor.pids()["guard"] == first:
        supervisor.tend()
        time.sleep(0.05)

    assert is_alive(supervisor.pids()["guard"])
    assert is_alive(supervisor.pid("clerk"))


def test_a_group_whose_number_went_to_another_process_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        Group(stranger.pid, "another time", signal.SIGTERM).stop()
        Group(stranger.pid, "another time", signal.SIGTERM).kill()
        assert stranger.poll() is None

        Group(stranger.pid, start_mark(stranger.pid), signal.SIGTERM).kill()
        assert stranger.wait(5) == -signal.SIGKILL


def test_the_processes_of_a_batch_share_one_grace(tmp_path: Path) -> None:
    deaf = [script(name, f"trap '' TERM; : > {name}; sleep 60 & wait; sleep 60", tmp_path) for name in "abcd"]
    with Supervisor(tmp_path / "logs") as supervisor:
        supervisor.start(*deaf)
        assert eventually(lambda: all((tmp_path / name).exists() for name in "abcd"))
        left = time.monotonic()

    assert 0.5 <= time.monotonic() - left < 4 * 0.5
