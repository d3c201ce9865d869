"""The worker's part in checkpoints: what its child has stored gets its row at once, or is nothing.

A child reaches no database, so it says through its pipe what it stored. While the database is away the row is tried
again for as long as the lease can stand.
"""

import time
from dataclasses import dataclass
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from control import resuming
from control.artefacts import ArtefactStore
from control.resuming import Resumption
from db.checkpoints import Kept
from db.session import Database
from vlyard.errors import StaleAttempt, Unavailable
from vlyard.files import ArtefactKind, Stored
from vlyard.trees import MEDIA_TYPE
from workers.context import Checkpoint
from workers.lease import Hold

log = structlog.get_logger()

_PAUSE_SECONDS = 0.5  # before trying again where the database is away
_OBJECTS_AT_ONCE = 1000


def checkpoint_of(resumption: Resumption) -> Checkpoint | None:
    """What an attempt goes on from, as its handler gets it."""
    kept = resumption.kept
    if kept is None:
        return None
    name = f"checkpoint-{kept.step}"
    return Checkpoint(
        kept.step, Stored(uuid7(), name, MEDIA_TYPE, kept.key, kept.bytes, kept.sha256, ArtefactKind.TREE)
    )


@dataclass(frozen=True)
class CheckpointRows:
    """Writes the rows of one worker's checkpoints."""

    worker: UUID
    database: Database
    store: ArtefactStore
    lease_seconds: float

    def keep(self, hold: Hold, checkpoint: Checkpoint) -> None:
        """Name a checkpoint that is in the store, and remove those that are too old; says in the log where it cannot.

        Also once the attempt was told to stop, as long as it is the worker's.
        """
        tree = checkpoint.tree
        told = {"job": str(hold.pair[0]), "attempt": hold.pair[1], "step": checkpoint.step}
        kept = Kept(checkpoint.step, tree.key, tree.bytes, tree.sha256)
        while not isinstance(hold.stop_reason, StaleAttempt) and not self._is_over(hold):
            try:
                with self.database.transaction() as session:
                    dropped = resuming.keep(session, self.worker, hold.pair, kept, checkpoint.latest)
            except Unavailable as error:
                log.warning("checkpoint not recorded yet", **told, reason=str(error))
                time.sleep(_PAUSE_SECONDS)
                continue
            if dropped is None:
                break
            log.info("checkpoint", **told)
            for key in dropped:
                self._remove(key)
            return
        log.warning("checkpoint given up", **told, reason="the attempt is not its own")

    def _is_over(self, hold: Hold) -> bool:
        return time.monotonic() - hold.renewed_at > self.lease_seconds

    def _remove(self, key: str) -> None:
        """Remove a checkpoint's objects, as far as that goes: what stays is removed after the job has ended."""
        try:
            keys = [key for key, _ in self.store.listed(key.rpartition("/")[0] + "/")]
            for start in range(0, len(keys), _OBJECTS_AT_ONCE):
                self.store.delete_each(keys[start : start + _OBJECTS_AT_ONCE])
        except Unavailable as error:
            log.warning("old checkpoint not removed yet", key=key, reason=str(error))
