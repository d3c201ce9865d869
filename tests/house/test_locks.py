"""The lock files: every package pinned by its hashes, no download host named, in step with pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.house.tree import ROOT, files, read

LOCKS = [path for path in files() if path.suffix == ".lock"]
# The extra that each layer locks, and what it may count on: pyproject's dependencies without an extra are the client's.
LAYERS = {"light": ("", "server"), "worker": ("worker",), "embedded": ("embedded",), "dev": ("dev",)}
PIN = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^ ;\\]+)(?: ; [^\\]+)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n"
)
HEAVY = {"torch", "torchvision", "transformers", "accelerate", "peft", "triton"}


def pins(path: Path) -> list[tuple[str, Version]]:
    """(name, version) of each package of a lock file, in order; a package may have one pin for each Python."""
    return [(canonicalize_name(found["name"]), Version(found["version"])) for found in PIN.finditer(read(str(path)))]


def lock(layer: str) -> Path:
    return Path("requirements") / f"{layer}.lock"


@pytest.mark.parametrize("path", LOCKS, ids=str)
def test_a_lock_holds_nothing_but_packages_pinned_by_their_hashes(path: Path) -> None:
    text = read(str(path))

    assert pins(path)
    assert PIN.sub("", text).strip() == ""
    assert "://" not in text


@pytest.mark.parametrize("layer", LAYERS)
def test_a_lock_is_in_step_with_the_project(layer: str) -> None:
    # given what the project asks for
    project = tomllib.loads(read("pyproject.toml"))["project"]
    lists = {"": project["dependencies"], **project["optional-dependencies"]}
    asked = [Requirement(line) for extra in LAYERS[layer] for line in lists[extra]]
    # when
    locked: dict[str, list[Version]] = {}
    for path in LOCKS:
        for name, version in pins(path):
            locked.setdefault(name, []).append(version)
    # then
    wrong = [
        f"{one} is locked as {locked.get(canonicalize_name(one.name))}"
        for one in asked
        if one.name != "vlyard"
        and not any(one.specifier.contains(version) for version in locked.get(canonicalize_name(one.name), []))
    ]
    assert wrong == []


def test_the_model_is_run_by_exactly_these_versions() -> None:
    pinned = dict(pins(lock("worker")))

    assert {name: str(pinned[name]) for name in ("torch", "torchvision")} == {
        "torch": "2.14.1",
        "torchvision": "0.29.1",
    }
    assert str(pinned["transformers"]).startswith("5.23.")


def test_only_the_workers_layer_brings_what_the_model_needs() -> None:
    assert HEAVY & {name for layer in ("light", "embedded") for name, _ in pins(lock(layer))} == set()


def test_flash_attention_is_locked_nowhere() -> None:
    assert [str(path) for path in LOCKS if "flash-attn" in dict(pins(path))] == []


def test_a_later_layer_repeats_nothing_of_an_earlier_one() -> None:
    seen = {name for name, _ in pins(lock("light"))}
    repeated = [f"{layer}: {name}" for layer in ("worker", "embedded") for name, _ in pins(lock(layer)) if name in seen]

    assert repeated == []


def test_every_lock_is_a_file_that_the_makefile_installs() -> None:
    assert [str(path) for path in LOCKS if str(path) not in read("Makefile")] == []
    named = re.findall(r"requirements/\w+\.lock", read("Makefile"))
    assert [name for name in named if not (ROOT / name).is_file()] == []
