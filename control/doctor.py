"""What `vlyard doctor` looks at on a machine of the server side: its servers and its disks, as its settings name them.

Only where one of the servers is named by a setting: on other machines the defaults mean nothing.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from uuid import uuid4

from redis import Redis

from control.artefacts import ArtefactStore
from control.settings import Settings, read_settings
from db.migrating import is_served
from db.session import Database
from vlyard.checks import Check, Finding, broken, ok, skipped
from vlyard.errors import InvalidInput

_NAMING = {"database_url", "redis_url", "s3_endpoint", "s3_access_key", "s3_bucket"}
_SECONDS = 5.0  # that Redis may take for an answer
_LEAST_FREE = 2**30  # bytes; with less, an attempt's files or a model do not fit
_CONTENT = b"vlyard doctor"


def checks() -> Iterator[Check]:
    """The server side's checks, with the settings of this process."""
    try:
        settings = read_settings()
    except InvalidInput as error:
        faults = "; ".join(f"{each.where}: {each.what}" for each in error.complaints)
        yield Check("settings", partial(broken, faults, "set them as docs/settings.md says"))
        return
    if not settings.model_fields_set & _NAMING:
        yield Check("server", partial(skipped, "no setting names a server: this machine is a client's"))
        return
    yield Check("postgresql", partial(_database, settings), "check VLYARD_DATABASE_URL, and that PostgreSQL runs there")
    yield Check("redis", partial(_redis, settings), "check VLYARD_REDIS_URL, and that Redis runs there")
    yield Check(
        "s3",
        partial(_store, settings),
        "check VLYARD_S3_ENDPOINT, VLYARD_S3_ACCESS_KEY, VLYARD_S3_SECRET_KEY and VLYARD_S3_BUCKET, "
        "which vlyard migrate makes",
    )
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlyard"
    work, cache = settings.work_dir or Path(tempfile.gettempdir()), settings.cache_dir or usual
    yield Check("work_dir", partial(_disk, work), "set VLYARD_WORK_DIR to a folder that can be written")
    yield Check("cache_dir", partial(_disk, cache), "set VLYARD_CACHE_DIR to a folder that can be written")


def _database(settings: Settings) -> Finding:
    url = settings.database_url.get_secret_value()
    with (
        closing(Database(url, connections=1, role="vlyard-doctor")) as database,
        database.transaction() as session,
    ):
        if is_served(session.connection()):
            return ok("it answers, and its schema is this version's or a newer one's")
        return broken("it answers, and its schema is of an older version", "run vlyard migrate")


def _redis(settings: Settings) -> Finding:
    url = settings.redis_url.get_secret_value()
    with closing(Redis.from_url(url, socket_connect_timeout=_SECONDS, socket_timeout=_SECONDS)) as redis:
        redis.ping()
    return ok("it answers")


def _store(settings: Settings) -> Finding:
    """Store an object, see that it is there, and remove it."""
    store, key = ArtefactStore(settings), f"doctor/{uuid4()}"
    store.reachable()  # first of all, because some servers make a bucket that something is stored in
    store.put_bytes(key, _CONTENT, "text/plain")
    try:
        kept = b"".join(store.read(key))
    finally:
        store.delete(key)
    if kept != _CONTENT:
        return broken("an object came back with other bytes than it was stored with", "look at the S3 server's disks")
    return ok(f"bucket {settings.s3_bucket} takes, gives and removes objects")


def _disk(folder: Path) -> Finding:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return broken(f"{there} is no folder that this user can write", "name another, or change who may write there")
    free = shutil.disk_usage(there).free
    said = f"{folder}: {free / 2**30:.1f} GiB free"
    if free < _LEAST_FREE:
        return broken(said, "make room, or name a folder on another disk")
    return ok(said)
