"""What a handler is given besides its specification: its inputs, a scratch folder, and a way to speak.

The same context serves a handler in a thread and one in a child process; only where its words go differs.
A context knows no database and no queue.
"""

import math
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from vlyard.errors import InvalidInput
from vlyard.files import ArtefactKind, Stored
from workers.trees import Store, fetch_tree, store_tree

_LATEST = 2  # checkpoints of a job that stay, where its handler does not say


@dataclass(frozen=True)
class Checkpoint:
    """What an attempt reached, as a tree in the store, from which the next one can go on."""

    step: int
    tree: Stored
    latest: int = _LATEST  # how many of the job's checkpoints stay, this one among them


@dataclass
class Context:
    """One attempt at one job, as its handler sees it."""

    job: UUID
    attempt: int
    scratch: Path  # where its folder goes, if it needs one; removed after the attempt
    inputs: Mapping[UUID, Stored]
    store: Store
    prefix: str  # the attempt's own place in the store; two attempts never write the same key
    tell: Callable[..., None]  # where progress goes: fraction, text and, where it was measured, rate and unit
    check: Callable[[], None]  # raises `Cancelled` or `TimeLimitExceeded` when it is time to stop
    say: Callable[[str], None] = print  # where lines of the log go; a process of its own logs what it prints
    resume: Checkpoint | None = None  # the latest of the attempts before; only kinds that resume have one
    shortages: int = 0  # attempts before that ran out of memory; counted for kinds that resume
    named: Mapping[str, UUID] = field(default_factory=dict)  # the artefacts of models that have a version's name
    record: Callable[[Mapping[str, Any]], None] = lambda _: None  # where metrics go
    preparing: Callable[[], AbstractContextManager[None]] = nullcontext  # in which the time limit stands still
    leave: Callable[[Mapping[str, Any]], None] = lambda _: None  # where a result in part goes before `Cancelled`
    hand_over: Callable[[Checkpoint], None] = lambda _: None  # where checkpoints go once they are in the store
    stopping: Callable[[], bool] = lambda: False  # whether to end soon, after a last checkpoint, by `WorkerStopping`
    published: list[Stored] = field(default_factory=list)
    rescued: list[Stored] = field(default_factory=list)  # what stays where the attempt fails
    _has_folder: bool = False

    @property
    def folder(self) -> Path:
        """The attempt's scratch folder, made when it is first asked for: many jobs never need one."""
        self._has_folder = True
        self.scratch.mkdir(mode=0o700, exist_ok=True)
        return self.scratch

    def clear(self) -> None:
        """Remove the scratch folder, where there is one. Where none was made, the disk is not even asked."""
        if self._has_folder and self.scratch.exists():
            shutil.rmtree(self.scratch)

    def input(self, artefact: UUID) -> Path:
        """Download an input artefact of the job; returns the local file, or a tree's folder, which carries its name."""
        file = self.inputs.get(artefact)
        if file is None:
            raise InvalidInput(f"the job names no artefact {artefact} as its input")
        path = self.folder / "inputs" / str(file.id) / file.name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            if file.kind is ArtefactKind.TREE:
                fetch_tree(self.store, file, path, self.check)
            else:
                self.store.fetch_each({path: file}, lambda _: self.check())  # a large one can be stopped on its way
        return path

    def publish(self, path: Path, media_type: str, name: str = "") -> UUID:
        """Store a file as an output of the job; returns its artefact id, to be named in the result."""
        self.check()
        name = name or path.name
        key = f"{self.prefix}/{name}"
        size, sha256 = self.store.put(key, path, media_type)
        file = Stored(uuid7(), name, media_type, key, size, sha256)
        self.published.append(file)
        return file.id

    def publish_tree(self, folder: Path, name: str = "") -> UUID:
        """Store a folder with all files below it as one output of the job; returns its artefact id.

        Raises `InvalidInput` that names what cannot be in a tree, such as links to folders.
        """
        self.check()
        place = f"{self.prefix}/{name or folder.name}"
        file = store_tree(self.store, folder, place, listing=self.folder / f"{uuid7()}.json", check=self.check)
        self.published.append(file)
        return file.id

    def rescue_tree(self, folder: Path, name: str) -> UUID:
        """Store a folder that stays although the attempt is about to fail; returns its artefact id, to be told of.

        Only what runs in a process of its own can.
        """
        artefact = self.publish_tree(folder, name)
        self.rescued.append(self.published[-1])
        return artefact

    def progress(self, fraction: float | None, text: str = "", rate: float | None = None, unit: str = "") -> None:
        """Say how far the attempt is: a fraction of 1, or None where that is unknown. Also looks for a stop.

        `rate` is how many of `unit`, such as samples, it does in a second.
        """
        self.check()
        self.tell(*((fraction, text) if rate is None else (fraction, text, rate, unit)))

    def note(self, data: Mapping[str, Any]) -> None:
        """Say what was measured, such as a step's loss: the newest of every second is told. Also looks for a stop.

        A number that is not finite is told as null, which is all that JSON has for it.
        """
        self.check()
        self.record({name: None if _is_endless(value) else value for name, value in data.items()})

    def keep(self, folder: Path, step: int, latest: int = _LATEST) -> None:
        """Store a folder as the checkpoint of a step, of which so many of the latest stay; then the folder may go.

        It does not look for a stop: the last checkpoint is made after that. Raises what `publish_tree` raises.
        """
        listing = self.folder / f"{uuid7()}.json"
        place = f"{self.prefix}/checkpoint-{step}"
        tree = store_tree(self.store, folder, place, listing=listing, check=lambda: None)
        self.hand_over(Checkpoint(step, tree, latest))

    def log(self, text: str) -> None:
        """Add one or more lines to the attempt's log, which people read while it runs and afterwards."""
        self.say(text)


def _is_endless(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
