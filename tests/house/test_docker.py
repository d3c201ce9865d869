"""The container files, read and not run: what they name is there, and what they set is a setting."""

import json
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grimp
import pytest
import typer.main
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from control.settings import Settings
from tests.house.tree import PACKAGES, ROOT, files, read
from vlyard.cli.app import build
from vlyard.jobs.kinds import KINDS, Kind

DOCKERFILE = read("docker/Dockerfile")
COMPOSE: dict[str, Any] = yaml.safe_load(read("docker/compose.yaml"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
VARIABLE = re.compile(r"\$\{(\w+)(?::(?:\?[^}]*|-))?\}")  # `:-`: may be left out
STAGES: dict[str, str] = dict(
    re.findall(r"^FROM \S+ AS (\S+)$(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
)
WORKERS = [name for name in OURS if name.endswith("-worker")]


def example() -> dict[str, str]:
    """The variables of .env.example."""
    return dict(re.findall(r"^(\w+)=(.*)$", read("docker/.env.example"), re.MULTILINE))


def filled(text: str) -> str:
    """A value of compose.yaml with the example's variables in it."""
    return VARIABLE.sub(lambda found: example()[found[1]], text)


def words_of(service: dict[str, Any]) -> list[str]:
    """The command that a service of ours runs."""
    return service.get("command") or re.findall(r'"([^"]+)"', STAGES[service["build"]["target"]].split("\nCMD ")[1])


def behind(target: str) -> list[str]:
    """The stages of which an image is made, itself first."""
    line = re.search(rf"^FROM (\S+) AS {target}$", DOCKERFILE, re.MULTILINE)
    assert line is not None
    others = [line[1], *re.findall(r"^COPY --from=(\S+)", STAGES[target], re.MULTILINE)]
    return [target, *(stage for other in others if other in STAGES for stage in behind(other))]


def installed(target: str) -> set[str]:
    """The distributions of an image, from its locks, without what comes of this repository."""
    locks = {name for stage in behind(target) for name in re.findall(r"-r /locks/(\S+)", STAGES[stage])}
    pins = (re.findall(r"^([a-z0-9][a-z0-9._-]*)==", read(f"requirements/{name}"), re.MULTILINE) for name in locks)
    return {canonicalize_name(name) for names in pins for name in names}


def folders(target: str) -> dict[str, str]:
    """The folders that an image's settings name, by the settings."""
    return {
        name: path for stage in behind(target) for name, path in re.findall(r"\bVLYARD_(\w+_DIR)=(\S+)", STAGES[stage])
    }


def served(service: dict[str, Any]) -> list[Kind]:
    """The kinds that a worker takes."""
    words = words_of(service)
    assert "--kinds" not in words  # it takes all of its device
    return [kind for kind in KINDS.values() if kind.device == words[words.index("--device") + 1]]


def test_the_services_are_the_servers_and_the_roles() -> None:
    roles = {"migrate", "api", "dispatcher", "cpu-worker", "gpu-worker", "flower"}

    assert OURS.keys() == roles
    assert SERVICES.keys() - roles == {"postgres", "valkey", "seaweedfs"}


def test_every_target_is_a_stage_that_starts_a_command_of_ours() -> None:
    commands = typer.main.get_command(build([])).commands  # type: ignore[attr-defined]  # a group's
    for name, service in OURS.items():
        words = words_of(service)
        assert words[0] == "vlyard", name
        options = {each for parameter in commands[words[1]].params for each in parameter.opts}
        assert {word for word in words[2:] if word.startswith("--")} <= options, name


def test_every_setting_in_a_container_is_one_of_ours_and_valid() -> None:
    known = {f"VLYARD_{name.upper()}": name for name in Settings.model_fields}
    for name, service in OURS.items():
        set_here = {key: filled(str(value)) for key, value in service["environment"].items()}
        assert set_here.keys() <= known.keys(), name
        Settings.model_validate({known[key]: value for key, value in set_here.items()})
    in_images = dict(re.findall(r"\b(VLYARD_\w+)=(\S+)", DOCKERFILE))
    assert in_images.keys() <= known.keys()
    Settings.model_validate({known[key]: value for key, value in in_images.items()})


def test_every_variable_is_in_the_example_and_nothing_else_is() -> None:
    assert set(VARIABLE.findall(read("docker/compose.yaml"))) == example().keys()


def test_everything_that_is_copied_is_there_and_is_sent_to_the_builder() -> None:
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {source for line in copies for source in line.split()}
    ignore = read("docker/Dockerfile.dockerignore").splitlines()
    sent = {line[1:] for line in ignore if line.startswith("!")}
    tracked = {str(parent) for path in files() for parent in (path, *path.parents)}

    assert sources <= tracked
    assert {source for source in sources if not any(Path(source).match(pattern) for pattern in sent)} == set()
    assert ignore[1] == "*"


def test_every_package_of_the_wheel_is_copied() -> None:
    packages = re.search(r"^packages = \[(.*)\]$", read("pyproject.toml"), re.MULTILINE)

    assert packages is not None
    for name in re.findall(r'"(\w+)"', packages[1]):
        assert f"COPY {name} {name}\n" in DOCKERFILE
        assert (ROOT / name).is_dir()


def test_everything_is_installed_by_its_hash() -> None:
    installs = [line for line in DOCKERFILE.splitlines() if "pip install" in line or "pip wheel" in line]

    assert installs
    for line in installs:
        assert (
            "--require-hashes --no-deps -r" in line or "--no-deps --no-index" in line or "--no-build-isolation" in line
        )


@pytest.mark.parametrize("name", OURS)
def test_no_role_runs_as_root_or_gains_rights(name: str) -> None:
    target = OURS[name]["build"]["target"]
    environment = re.search(rf"^FROM (\S+) AS {target}$", DOCKERFILE, re.MULTILINE)

    assert environment is not None
    stage = re.search(rf"^FROM \S+ AS {environment[1]}$(.*?)^FROM ", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert stage is not None
    assert "\nUSER vlyard\n" in stage[1]
    assert OURS[name]["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in OURS[name]["security_opt"]


def test_what_the_servers_are_told_is_what_the_roles_say() -> None:
    told = json.loads(filled(COMPOSE["configs"]["s3"]["content"]))["identities"][0]["credentials"][0]
    roles = {key: filled(value) for key, value in OURS["api"]["environment"].items()}

    assert told == {"accessKey": roles["VLYARD_S3_ACCESS_KEY"], "secretKey": roles["VLYARD_S3_SECRET_KEY"]}
    assert f"requirepass {urlsplit(roles['VLYARD_REDIS_URL']).password}\n" in filled(
        COMPOSE["configs"]["valkey"]["content"]
    )
    password = filled(SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"])
    assert urlsplit(roles["VLYARD_DATABASE_URL"]).password == password


def test_only_what_people_and_clients_need_is_published() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert published == {"api": ["8080:8080"], "seaweedfs": ["8333:8333"], "flower": ["127.0.0.1:5555:5555"]}


def test_whoever_is_waited_for_has_a_health_check() -> None:
    for service in SERVICES.values():
        for other, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], other
            else:
                assert SERVICES[other]["restart"] == "no", other


# --- what workers need ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def reached(imports: grimp.ImportGraph, kind: Kind) -> set[str]:
    """The modules that a kind's handler imports, directly or through others, wherever in a file."""
    handler = kind.handler.partition(":")[0]
    return {handler, *imports.find_upstream_modules(handler)}


def foreign(imports: grimp.ImportGraph, modules: Iterable[str]) -> set[str]:
    return {name for name in modules if imports.is_module_squashed(name)} - set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", WORKERS)
def test_the_image_of_a_worker_has_what_the_handlers_of_its_kinds_import(name: str, imports: grimp.ImportGraph) -> None:
    # given what is installed there, and what a format alone asks for, which says so where it is not there
    present = installed(OURS[name]["build"]["target"])
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    optional = {canonicalize_name(Requirement(line).name) for line in extras["quantised"]}
    brought_by = packages_distributions()
    # when
    lacking = {
        (kind.name, module)
        for kind in served(OURS[name])
        for module in foreign(imports, reached(imports, kind))
        if not {canonicalize_name(each) for each in brought_by[module]} & (present | optional)
    }
    # then
    assert lacking == set()


@pytest.mark.parametrize("name", WORKERS)
def test_the_image_of_a_worker_has_a_kept_folder_for_each_that_its_handlers_ask_the_settings_for(
    name: str, imports: grimp.ImportGraph
) -> None:
    target, asked = OURS[name]["build"]["target"], set()
    for kind in served(OURS[name]):
        for module in reached(imports, kind) - foreign(imports, reached(imports, kind)):
            path = ROOT / f"{module.replace('.', '/')}.py"
            if path.is_file():
                asked |= {each.upper() for each in re.findall(r"\bsettings\.(\w+_dir)\b", path.read_text("utf-8"))}
    kept = {volume.split(":")[1] for volume in OURS[name]["volumes"]}

    assert asked <= folders(target).keys()
    assert {path for setting, path in folders(target).items() if setting != "WORK_DIR"} == kept
    made = re.search(r"mkdir -p (.*) \\$", DOCKERFILE, re.MULTILINE)
    assert made is not None
    assert set(folders(target).values()) <= set(made[1].split())  # so that a new volume belongs to the user
