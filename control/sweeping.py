"""Removing what nobody needs any more: abandoned uploads, what failed attempts and deleted models left, old records.

Any number of processes may do it: each takes a few rows that no other one has locked, removes their objects first and
the rows after, so that one that dies in between is followed by one that begins again. An outage of S3 or PostgreSQL
costs a round.
"""

import random
import re
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from control.artefacts import ArtefactStore
from control.settings import Settings
from db import removals, sweeping
from db.artefacts import made_by, open_uploads
from db.queue import now
from db.session import Database
from db.sweeping import Leftover
from vlyard.errors import Unavailable
from vlyard.files import ArtefactKind

log = structlog.get_logger()

_PAUSE_SECONDS = 0.5  # between the batches of a round
_FOLDERS_AT_ONCE, _ROWS_AT_ONCE, _OBJECTS_AT_ONCE = 20, 1000, 1000
_OURS = "teams/"  # what all keys of artefacts begin with
_IS_CHECKPOINT = re.compile(r"/attempts/\d+/checkpoint-\d+/")


class Sweeper:
    """Sweeps in a thread of its own."""

    def __init__(self, database: Database, store: ArtefactStore, settings: Settings) -> None:
        self._database = database
        self._store = store
        self._settings = settings
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more, and end after what is under way."""
        self._stopped.set()
        self._thread.join(timeout=10)  # it may be waiting for S3, and may end at any moment

    def sweep(self) -> int:
        """One round: everything that is due, in small transactions; returns how much was removed."""
        done = 0
        rounds = (
            self._keys, self._deliveries, self._uploads, self._leftovers, self._checkpoints, self._deleted,
            self._latecomers,
        )  # fmt: skip
        for each in rounds:
            while not self._stopped.is_set() and (count := each()):
                done += count
                self._stopped.wait(_PAUSE_SECONDS)
        return done + self._unknown()

    def _keys(self) -> int:
        """Forget old Idempotency-Keys."""
        with self._database.transaction() as session:
            before = now(session) - timedelta(seconds=self._settings.idempotency_keep_seconds)
            return sweeping.forget_keys(session, _first_id_of(before), _ROWS_AT_ONCE)

    def _deliveries(self) -> int:
        """Forget old messages to webhooks."""
        with self._database.transaction() as session:
            return sweeping.forget_deliveries(session, self._settings.delivery_keep_seconds, _ROWS_AT_ONCE)

    def _uploads(self) -> int:
        """Remove uploads that nobody goes on with."""
        # While a link of theirs may still work, something could come after the row has gone.
        age = max(self._settings.upload_keep_seconds, self._settings.presign_seconds)
        with self._database.transaction() as session:
            abandoned = sweeping.lock_abandoned(session, age, _FOLDERS_AT_ONCE)
            for each in abandoned:
                for opened in open_uploads(session, each.id):
                    self._store.abort(opened.key, opened.upload)
                self._remove_below(_folder(each.key))
                sweeping.remove_abandoned(session, each.id)
        return len(abandoned)

    def _leftovers(self) -> int:
        """Remove what attempts that did not succeed left in the store, and no artefact or checkpoint names."""
        with self._database.transaction() as session:
            found = sweeping.lock_leftovers(session, self._settings.leftover_keep_seconds, _FOLDERS_AT_ONCE)
            self._remove_leftovers(session, found)
            sweeping.note_swept(session, [each.pair for each in found])
        return len(found)

    def _latecomers(self) -> int:
        """Remove what workers whose attempts had been given up wrote after these were swept.

        Such a worker was frozen or cut off, and what it had begun, in a process of its own, may have gone on for as
        long as its kind may run. Who comes back even later says so itself, and is swept once more.
        """
        with self._database.transaction() as session:
            found = sweeping.lock_latecomers(session, self._settings.latecomer_seconds, _FOLDERS_AT_ONCE)
            self._remove_leftovers(session, found)
            sweeping.note_swept(session, [each.pair for each in found], again=True)
        return len(found)

    def _checkpoints(self) -> int:
        """Remove the checkpoints of jobs that have ended, and what was meant to be one and has no row."""
        with self._database.transaction() as session:
            found = sweeping.lock_outlived(session, self._settings.checkpoint_keep_seconds, _FOLDERS_AT_ONCE)
            for job, team in found:
                made = tuple(_folder(row.key) for row in made_by(session, team, job) if row.kind is ArtefactKind.TREE)
                self._remove_checkpoints(f"{_OURS}{team}/jobs/{job}/attempts/", made)
            sweeping.forget_checkpoints(session, [job for job, _ in found])
        return len(found)

    def _deleted(self) -> int:
        """Remove the objects of artefacts that were deleted."""
        with self._database.transaction() as session:
            found = removals.lock_leftovers(session, _FOLDERS_AT_ONCE)
            for each in found:
                if each.kind is ArtefactKind.TREE:
                    self._remove_below(_folder(each.key))
                else:
                    self._store.delete_each([each.key])
            removals.forget(session, [each.key for each in found])
        return len(found)

    def _remove_checkpoints(self, attempts: str, made: tuple[str, ...]) -> None:
        self._remove_below(attempts, lambda key: key.startswith(made) or not _IS_CHECKPOINT.search(key))

    def _remove_leftovers(self, session: Session, found: Sequence[Leftover]) -> None:
        pairs = [each.pair for each in found]
        named = [*sweeping.named_by(session, pairs), *sweeping.kept_by(session, pairs)]
        for each in found:
            self._remove_leftover(each, [(key, kind) for pair, key, kind in named if pair == each.pair])

    def _remove_leftover(self, attempt: Leftover, kept: Sequence[tuple[str, ArtefactKind]]) -> None:
        job, number = attempt.pair
        prefix = f"{_OURS}{attempt.team}/jobs/{job}/attempts/{number}/"
        files = {key for key, kind in kept if kind is ArtefactKind.FILE}
        trees = tuple(_folder(key) for key, kind in kept if kind is ArtefactKind.TREE)
        self._remove_below(prefix, lambda key: key in files or key.startswith(trees))
        for part in list(self._store.multiparts(prefix)):
            self._store.abort(part.key, part.upload)

    def _unknown(self) -> int:
        """Give up objects of which S3 collects the parts, and nobody knows: their workers or APIs have died."""
        before = datetime.now(UTC) - timedelta(seconds=self._settings.upload_keep_seconds)
        old = [(each.key, each.upload) for each in self._store.multiparts(_OURS) if each.began_at < before]
        done = 0
        for start in range(0, len(old), _ROWS_AT_ONCE):
            some = old[start : start + _ROWS_AT_ONCE]
            with self._database.transaction() as session:
                known = sweeping.known_uploads(session, some)
            for key, upload in some:
                if (key, upload) not in known:
                    self._store.abort(key, upload)
                    done += 1
        return done

    def _remove_below(self, prefix: str, is_kept: Callable[[str], bool] = lambda _: False) -> None:
        keys = (key for key, _ in list(self._store.listed(prefix)) if not is_kept(key))
        while some := list(islice(keys, _OBJECTS_AT_ONCE)):
            self._store.delete_each(some)

    def _run(self) -> None:
        between = self._settings.sweep_seconds
        while not self._stopped.wait(between * random.uniform(0.75, 1.25)):  # noqa: S311  # jitter, not a secret
            try:
                done = self.sweep()
            except Unavailable as error:
                log.warning("sweeping waits", reason=str(error))
            except Exception:
                log.exception("sweeping failed in an unforeseen way")
            else:
                if done:
                    log.info("swept", count=done)


def _folder(key: str) -> str:
    return key.rpartition("/")[0] + "/"


def _first_id_of(at: datetime) -> UUID:
    """The least UUIDv7 of a moment: its first 48 bits are milliseconds of Unix time (RFC 9562, 5.7)."""
    return UUID(int=int(at.timestamp() * 1000) << 80)
