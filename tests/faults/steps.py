"""A product with one kind of job more, which counts steps as a training does: it keeps, resumes and makes a model.

It is a copy of the product from which a VLyard's roles are started, so that their processes are real, and quick.
"""

import shutil
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from control.stack.supervisor import Process
from db import jobs
from db.models import Checkpoint, Job
from tests.house.tree import PACKAGES, ROOT, files
from tests.system import System, eventually
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State

EVERY = 5  # steps between two checkpoints
_LANGUAGE = '''"""Count steps, and keep how far it got."""

from typing import Literal

from vlyard.jobs.generation import ModelId
from vlyard.jobs.spec import Result, Spec


class StepsSpec(Spec):
    kind: Literal["steps"] = "steps"
    name: str = "counted"
    model: ModelId = "demo"
    steps: int = 10
    pause: float = 0.05
    short_at: int | None = None  # the first attempt runs out of memory there


class StepsResult(Result):
    model: str | None = None
    counted: str  # a letter for each step, by the attempt that did it
    resumed_at: int | None = None
    shortages: int
'''
_HANDLER = f'''"""The job that counts steps."""

import time

from vlyard.errors import OutOfMemory, WorkerStopping
from vlyard.jobs.steps import StepsResult, StepsSpec
from workers.context import Context
from workers.trees import fetch_tree


def run(spec: StepsSpec, context: Context) -> StepsResult:
    counted, at = "", None
    if context.resume is not None:
        at = context.resume.step
        fetch_tree(context.store, context.resume.tree, context.folder / "resumed", context.check)
        counted = (context.folder / "resumed" / "counted").read_text()
    while len(counted) < spec.steps:
        time.sleep(spec.pause)
        counted += "abcdef"[context.attempt - 1]
        context.note({{"step": len(counted), "loss": 1 / len(counted), "bad": float("nan")}})
        context.log(f"step {{len(counted)}}")
        if context.stopping() or len(counted) % {EVERY} == 0:
            keep(counted, context)
        if context.stopping():
            raise WorkerStopping
        if context.attempt == 1 and len(counted) == spec.short_at:
            raise OutOfMemory
    model = context.publish_tree(kept(counted, context), "model")
    return StepsResult(counted=counted, resumed_at=at, shortages=context.shortages, artefacts={{"model": model}})


def kept(counted: str, context: Context):
    folder = context.folder / f"at {{len(counted)}}"
    folder.mkdir(exist_ok=True)
    (folder / "counted").write_text(counted)
    return folder


def keep(counted: str, context: Context) -> None:
    context.keep(kept(counted, context), len(counted), latest=2)
'''
_IMPORT = "from vlyard.jobs.steps import StepsResult, StepsSpec\n"
_ROW = """    Kind("steps", StepsSpec, StepsResult, Device.CPU, "workers.steps:run",
         time_limit=_HOUR, max_attempts=3, isolation=Isolation.PROCESS, resumes=True, makes_model=True),
"""
_PROGRAM = "from vlyard.cli.app import main; main()"


def copied(folder: Path) -> Path:
    """A copy of the product, in that folder, which knows the kind `steps`."""
    for path in files():
        if path.parts[0] in PACKAGES:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, folder / path)
    (folder / "vlyard/jobs/steps.py").write_text(_LANGUAGE)
    (folder / "workers/steps.py").write_text(_HANDLER)
    table = folder / "vlyard/jobs/kinds.py"
    before, after = "from vlyard.jobs.training import", "\n)\n# fmt: on"
    text = table.read_text()
    assert text.count(before) == text.count(after) == 1
    table.write_text(text.replace(before, _IMPORT + before).replace(after, f"\n{_ROW.rstrip()}{after}"))
    return folder


def start(system: System, product: Path, name: str, *words: str) -> int:
    """Start a role of the copy; returns its pid."""
    environment = {**system.environment, "PYTHONPATH": str(product), "PYTHONUNBUFFERED": "1"}
    program = (sys.executable, "-c", _PROGRAM, *words)
    system.supervisor.start(Process(name, program, lambda: True, environment, folder=product, patience=120))
    return system.supervisor.pid(name)


def submitted(system: System, team: UUID, **spec: Any) -> UUID:
    """A job of that kind, which this process does not know."""
    with system.database.transaction() as session:
        job = Job(
            id=uuid7(), team_id=team, kind="steps", pool="default", device=Device.CPU, state=State.QUEUED,
            max_attempts=3, last_event=1, spec={"kind": "steps", "name": "counted", "model": "demo", **spec},
        )  # fmt: skip
        session.add(job)
        session.flush()
        jobs.append_events(session, [(job.id, 1, {"state": "queued"})])
        return job.id


def checkpoints(system: System, job: UUID) -> list[tuple[int, int]]:
    """The (attempt, step) of every checkpoint of a job that is named."""
    with system.database.transaction() as session:
        rows = session.query(Checkpoint).filter_by(job_id=job).order_by(Checkpoint.step)
        return [(row.attempt, row.step) for row in rows]


def until_kept(system: System, job: UUID) -> None:
    """Wait for the first checkpoint of a job."""
    eventually(lambda: checkpoints(system, job), 60, f"a checkpoint of job {job}")
