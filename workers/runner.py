"""One doorbell answered, from claim to result: claim → inputs → handler → artefacts → finish.

What a doorbell says is checked against the row: a stale, doubled or late one finds nothing to claim and ends here.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

from control import lifecycle
from control.artefacts import ArtefactStore
from control.failures import failure_of
from control.lifecycle import Ending, Rules
from control.settings import Settings
from control.uploads import stored
from control.wakeup import Bell, Channel
from db.models import Outcome
from db.queue import Claimed, Pair
from db.session import Database
from vlyard.errors import Cancelled, StaleAttempt, Unavailable
from vlyard.files import Stored
from vlyard.jobs.kinds import KINDS, Isolation, Kind
from vlyard.jobs.state import State
from workers.context import Context
from workers.handlers import load_handler
from workers.isolation import Assignment, HandlerFailed, run_isolated
from workers.lease import Hold, LeaseKeeper

log = structlog.get_logger()

_FINISH_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Runner:
    """What a worker needs to run attempts."""

    worker: UUID
    database: Database
    store: ArtefactStore
    bell: Bell
    keeper: LeaseKeeper
    settings: Settings
    rules: Rules

    def run(self, pair: Pair) -> Ending | None:
        """Answer a doorbell; returns how the attempt ended, or None where there was nothing to claim or to record."""
        claimed_at = time.monotonic()
        with self.database.transaction() as session:
            claimed = lifecycle.claim(session, self.worker, pair, self.rules)
        if claimed is None:
            log.info("nothing to claim", job=str(pair[0]), attempt=pair[1])
            return None
        kind = KINDS[claimed.kind]
        killable = kind.isolation is Isolation.PROCESS
        with self.keeper.holding(pair, claimed_at, kind.time_limit.total_seconds(), killable=killable) as hold:
            try:
                ending = self._attempt(kind, claimed, hold)
                state = self._finish_somehow(ending, hold)
            except StaleAttempt as error:
                log.warning("attempt given up", job=str(pair[0]), attempt=pair[1], reason=str(error))
                return None
        self.bell.strike(Channel.ENDED)
        log.info(
            "attempt ended", job=str(pair[0]), attempt=pair[1], kind=kind.name, outcome=ending.outcome, state=state
        )
        return ending

    def _attempt(self, kind: Kind, claimed: Claimed, hold: Hold) -> Ending:
        """Run the handler, whatever it does; only a lost lease is raised."""
        try:
            result, published = self._handle(kind, claimed, hold)
        except StaleAttempt:
            raise
        except Cancelled:
            return Ending(hold.pair, Outcome.CANCELLED)
        except HandlerFailed as error:
            return Ending(hold.pair, Outcome.FAILED, failure=error.failure)
        except Exception as error:  # a handler's error is the job's, never the worker's
            if not _foreseen(error):
                log.exception("handler failed", job=str(claimed.job), kind=kind.name)
            return Ending(hold.pair, Outcome.FAILED, failure=failure_of(error))
        return Ending(hold.pair, Outcome.SUCCEEDED, result=result, artefacts=[asdict(file) for file in published])

    def _handle(self, kind: Kind, claimed: Claimed, hold: Hold) -> tuple[dict[str, Any], Sequence[Stored]]:
        spec = kind.spec.model_validate(claimed.spec)
        with self.database.transaction() as session:
            inputs = [stored(row) for row in lifecycle.inputs_of(session, claimed, spec.inputs())]
        prefix = f"teams/{claimed.team}/jobs/{claimed.job}/attempts/{claimed.attempt}"
        with tempfile.TemporaryDirectory(prefix="vlyard-", dir=self.settings.work_dir) as folder:
            if kind.isolation is Isolation.PROCESS:
                assignment = Assignment(
                    kind=kind.name,
                    spec=dict(claimed.spec),
                    job=claimed.job,
                    attempt=claimed.attempt,
                    folder=Path(folder),
                    inputs=inputs,
                    prefix=prefix,
                )
                report = run_isolated(assignment, hold, self.settings.stop_grace_seconds)
                return dict(report.result or {}), report.published
            context = Context(
                job=claimed.job,
                attempt=claimed.attempt,
                folder=Path(folder),
                inputs={file.id: file for file in inputs},
                store=self.store,
                prefix=prefix,
                tell=hold.tell,
                check=hold.check,
            )
            result = load_handler(kind)(spec, context)
            return result.model_dump(mode="json"), context.published

    def _finish_somehow(self, ending: Ending, hold: Hold) -> State:
        """Record the ending; one that the database will not have, for what is in it, is recorded as a failure."""
        try:
            return self._finish(ending, hold)
        except StaleAttempt:
            raise
        except Exception as error:
            log.exception("ending cannot be recorded", job=str(ending.pair[0]), attempt=ending.pair[1])
            return self._finish(Ending(ending.pair, Outcome.FAILED, failure=failure_of(error)), hold)

    def _finish(self, ending: Ending, hold: Hold) -> State:
        """Record the ending. While the database is away this goes on trying, for as long as the lease can stand."""
        while True:
            if isinstance(hold.stop_reason, StaleAttempt):
                raise hold.stop_reason
            try:
                with self.database.transaction() as session:
                    return lifecycle.finish(session, self.worker, ending, self.rules)
            except Unavailable as error:
                log.warning("ending not recorded yet", job=str(ending.pair[0]), reason=str(error))
                time.sleep(_FINISH_PAUSE_SECONDS)


def _foreseen(error: Exception) -> bool:
    return failure_of(error).code != "internal"
