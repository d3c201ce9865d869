"""The documentation says what the code says: a drift in either direction fails here."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from api.app import make_app
from bench.__main__ import FIGURES
from control.settings import Settings
from tests.house.tree import ROOT, files, read
from vlyard import errors
from vlyard.cli.app import OURS, STATUS, THEIRS, build
from vlyard.cli.entry import INTERRUPTED
from vlyard.client.calls import KEY_VARIABLE, URL_VARIABLE
from vlyard.errors import VLyardError
from vlyard.jobs.kinds import KINDS, OUTPUTS, Kind
from vlyard.jobs.repeating import option
from vlyard.problems import status_of

GROUP = typer.main.get_command(build([])).commands  # type: ignore[attr-defined]  # a group's; typer hides the type
COMMANDS = {
    f"{name} {inner}".strip(): part
    for name, command in GROUP.items()
    for inner, part in getattr(command, "commands", {"": command}).items()
}
ERRORS = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, VLyardError)]
PAGES = [path for path in files() if path.suffix == ".md"]


# --- reading Markdown -----------------------------------------------------------------------------------------


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its rank or above; empty where there is none."""
    rank = len(heading) - len(heading.lstrip("#"))
    found = re.search(rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{rank}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def rows(text: str) -> list[list[str]]:
    """The cells of every table row whose first cell is a name in backticks."""
    lines = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip().replace("\\|", "|") for cell in cells] for cells in lines]


def named(text: str) -> list[str]:
    return [cells[0].strip("`") for cells in rows(text)]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


# --- settings -------------------------------------------------------------------------------------------------


def shown(value: object) -> str:
    """A default, as a table shows it."""
    plain = value.get_secret_value() if isinstance(value, SecretStr) else value
    return "none" if plain in {None, ""} else f"`{plain}`"


def test_every_setting_is_documented_as_it_is() -> None:
    expected = [
        [f"`VLYARD_{name.upper()}`", shown(field.default), field.description]
        for name, field in Settings.model_fields.items()
    ]

    assert rows(section(read("docs/settings.md"), "## The server side")) == expected


def test_every_setting_of_the_client_is_documented() -> None:
    assert named(section(read("docs/settings.md"), "## The client")) == [URL_VARIABLE, KEY_VARIABLE]


def test_no_page_names_a_setting_that_there_is_not() -> None:
    known = {f"VLYARD_{name.upper()}" for name in Settings.model_fields} | {URL_VARIABLE, KEY_VARIABLE}
    unknown = {
        f"{path}: {name}"
        for path in PAGES
        for name in re.findall(r"\bVLYARD_[A-Z0-9_]*[A-Z0-9]\b(?!_?\*)", read(str(path)))
        if name not in known
    }

    assert unknown == set()


# --- errors ---------------------------------------------------------------------------------------------------


def test_every_error_is_documented_as_it_is() -> None:
    expected = {each.code: (each, str(status_of(each())), each.blame.value) for each in ERRORS}
    documented = {cells[0].strip("`"): cells for cells in rows(section(read("docs/errors.md"), "## The codes"))}

    assert documented.keys() == expected.keys()
    for code, (kind, status, blame) in expected.items():
        _, meaning, told_status, told_blame, advice = documented[code]
        assert (meaning, told_status, told_blame) == (kind.__doc__, status, blame), code
        assert len(advice) > 10, code


# --- kinds ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    row = request.param
    assert isinstance(row, Kind)
    return row


def test_every_kind_is_documented_and_no_other() -> None:
    headings = re.findall(r"^## `(\w+)`$", read("docs/jobs.md"), re.MULTILINE)

    assert headings == list(KINDS)


def test_a_kinds_row_is_documented(kind: Kind) -> None:
    told = section(read("docs/jobs.md"), f"## `{kind.name}`")
    minutes = int(kind.time_limit.total_seconds() // 60)
    limit = f"{minutes // 60} h" if minutes % 60 == 0 else f"{minutes} min"

    facts = f"{kind.device} · {kind.isolation} · at most {limit} · {kind.max_attempts} attempts"
    assert f"**{facts}{' · administrators only' if kind.admin_only else ''}**" in told


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_kinds_outputs_are_documented(name: str) -> None:
    told = rows(section(section(read("docs/jobs.md"), f"## `{name}`"), "### Result"))
    [said] = [" ".join(cells) for cells in told if cells[0] == "`artefacts`"]
    for output in OUTPUTS[name]:
        assert f"`{re.sub('-[0-9]+$', '-1', output)}`" in said


@pytest.mark.parametrize("part", ["Specification", "Result"])
def test_a_kinds_fields_are_documented(kind: Kind, part: str) -> None:
    model = kind.spec if part == "Specification" else kind.result
    told = rows(section(section(read("docs/jobs.md"), f"## `{kind.name}`"), f"### {part}"))

    assert [cells[0].strip("`") for cells in told] == [name for name in model.model_fields if name != "kind"]
    for cells in told:
        field = model.model_fields[cells[0].strip("`")]
        if part == "Specification":
            assert cells[1] == default(field), cells
        assert len(cells[-1]) > 5, cells


def default(field: FieldInfo) -> str:
    """A field's default, as a table shows it."""
    if field.is_required():
        return "required"
    value = field.default
    if value is PydanticUndefined or value is None or value == "":
        return "none"
    return "see below" if len(str(value)) > 40 else f"`{json.dumps(value)}`"


def test_a_kinds_examples_are_valid(kind: Kind) -> None:
    told = section(read("docs/jobs.md"), f"## `{kind.name}`")
    specs = blocks(section(told, "### Specification"), "json")
    results = blocks(section(told, "### Result"), "json")

    assert specs
    assert results
    assert all_valid(kind.spec, specs)
    assert all_valid(kind.result, results)


def all_valid(model: type[BaseModel], texts: list[str]) -> bool:
    return all(model.model_validate_json(text) for text in texts)


def test_a_kind_says_what_can_go_wrong(kind: Kind) -> None:
    told = section(section(read("docs/jobs.md"), f"## `{kind.name}`"), "### What can go wrong")
    codes = {each.code for each in ERRORS}

    assert named(told)
    assert set(named(told)) <= codes


# --- commands -------------------------------------------------------------------------------------------------


def test_every_command_is_documented_and_no_other() -> None:
    headings = re.findall(r"^### `vlyard (\w+(?: \w+)?)`$", read("docs/commands.md"), re.MULTILINE)

    assert sorted(headings) == sorted(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - KINDS.keys()))
def test_every_option_of_a_command_is_documented(name: str) -> None:
    told = section(read("docs/commands.md"), f"### `vlyard {name}`")
    expected = [parameter_name(each) for each in COMMANDS[name].params]

    assert named(told) == expected
    assert f"vlyard {name}" in "".join(blocks(told, "sh"))


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_what_all_kinds_commands_share_is_documented_and_the_rest_are_fields_of_the_specification(kind: Kind) -> None:
    page = read("docs/commands.md")
    fields = {option(name) for name in kind.spec.model_fields}
    own = [parameter_name(each) for each in COMMANDS[kind.name].params]

    assert named(section(page, "### Options of every kind")) == [name for name in own if name not in fields]
    assert f"vlyard {kind.name} --" in "".join(blocks(section(page, f"### `vlyard {kind.name}`"), "sh"))


def parameter_name(parameter: object) -> str:
    names: list[str] = getattr(parameter, "opts", [])
    return names[0] if names[0].startswith("-") else names[0].upper()


def test_every_exit_status_is_documented() -> None:
    told = re.findall(r"^\| (\d+) \| \S", section(read("docs/commands.md"), "## vlyard"), re.MULTILINE)

    assert sorted(map(int, told)) == sorted({0, OURS, THEIRS, *STATUS.values(), INTERRUPTED})


def test_every_target_of_the_makefile_is_documented() -> None:
    targets = re.findall(r"^([a-z]+):.*## ", read("Makefile"), re.MULTILINE)

    assert [name for name in targets if f"`make {name}`" not in read("docs/commands.md")] == []


def test_every_figure_that_the_bench_measures_is_documented_and_no_other() -> None:
    assert named(section(read("docs/commands.md"), "### What is measured")) == list(FIGURES)


# --- the API --------------------------------------------------------------------------------------------------


def test_every_request_that_the_api_answers_is_documented_and_no_other() -> None:
    paths = make_app(Settings()).openapi()["paths"]
    offered = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    table = section(read("docs/api.md"), "## The surface")

    assert set(re.findall(r"`((?:GET|POST|PUT|DELETE|PATCH) [^`]+)`", table)) == offered


# --- README ---------------------------------------------------------------------------------------------------


def tree() -> Iterator[tuple[Path, str]]:
    """Every (file or folder, purpose) that README's tree names."""
    parents: list[str] = []
    for line in "".join(blocks(section(read("README.md"), "## The tree"), "text")).splitlines():
        if not line.strip():
            continue
        name, _, purpose = line.strip().partition("  ")
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name.rstrip("/")]
        yield Path(*parents), purpose.strip()


def test_the_tree_lists_every_file_of_the_packages_with_its_purpose() -> None:
    listed = dict(tree())
    packages = {"vlyard", "db", "control", "api", "workers"}
    expected = {
        path
        for path in files()
        if path.parts[0] in packages
        and path.suffix == ".py"
        and read(str(path)).strip()
        and "demo_model" not in path.parts
    }

    assert sorted(map(str, expected - listed.keys())) == []
    assert [str(path) for path, purpose in listed.items() if not purpose] == []


def test_the_tree_lists_nothing_that_is_not_there() -> None:
    known = {parent for path in files() for parent in (path, *path.parents)}

    assert [str(path) for path, _ in tree() if path not in known] == []


def test_the_tree_lists_every_folder_of_the_project() -> None:
    listed = {path for path, _ in tree()}
    top = {Path(path.parts[0]) for path in files() if len(path.parts) > 1 and not path.parts[0].startswith(".")}

    assert sorted(map(str, top - listed)) == []


# --- links and names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|(?:src|srcset)=\"([^\"]+)\"", read(str(page)))
    inside = [each for pair in links for each in pair if each and "://" not in each]

    assert [each for each in inside if not (ROOT / page.parent / each).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    names = set(re.findall(r"`(test_\w+)`", read(str(page))))
    written = {
        name
        for path in files()
        if path.name.startswith("test_")
        for name in re.findall(r"def (test_\w+)", read(str(path)))
    }

    assert names - written == set()


def test_every_decision_has_its_four_parts() -> None:
    records = [path for path in PAGES if path.parent == Path("docs/decisions")]

    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    for path in records:
        text = read(str(path))
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
            "Context",
            "Decision",
            "Consequences",
            "Alternatives",
        ], path
        assert section(text, "## Decision").strip().startswith("**"), path
        assert f"({path.relative_to('docs')})" in read("docs/index.md"), path
