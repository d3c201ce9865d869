"""The table of kinds: every row is whole, and what is derived from it follows it."""

import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from importlib.util import find_spec
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import ValidationError

from vlyard.jobs.kinds import KINDS, Kind
from vlyard.jobs.spec import Result, Spec
from vlyard.jobs.view import Submission

VALUES: Mapping[Any, str] = {  # for a required field, by its type
    UUID: str(uuid4()),
    str: "What is there?",
    UUID | str: str(uuid4()),
}

PARTICULAR: Mapping[str, dict[str, Any]] = {  # where a type alone does not say what a specification needs
    "inference": {"image": str(uuid4()), "prompt": "What is there?"},
    "import": {"name": "street"},
}


def example(row: Kind) -> dict[str, Any]:
    """The least that a specification of the kind has to say."""
    fields = row.spec.model_fields.items()
    required = {name: VALUES[field.annotation] for name, field in fields if field.is_required() and field.annotation}
    return {**required, **PARTICULAR.get(row.name, {})}


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def row(request: pytest.FixtureRequest) -> Kind:
    kind = request.param
    assert isinstance(kind, Kind)
    return kind


def test_a_specification_says_its_own_rows_name(row: Kind) -> None:
    assert issubclass(row.spec, Spec)
    assert row.spec.model_fields["kind"].default == row.name
    assert row.spec.model_json_schema()["properties"]["kind"]["const"] == row.name
    assert KINDS[row.name] is row


def test_a_result_is_a_result_of_its_own(row: Kind) -> None:
    assert issubclass(row.result, Result)
    assert row.result is not Result
    assert [other.name for other in KINDS.values() if other.result is row.result] == [row.name]


def test_a_handler_is_named_where_there_is_a_module(row: Kind) -> None:
    module, _, function = row.handler.partition(":")

    assert find_spec(module) is not None, f"{module} is missing"
    assert function.isidentifier()


def test_a_row_has_a_time_limit_and_at_least_one_attempt(row: Kind) -> None:
    assert timedelta(0) < row.time_limit
    assert row.max_attempts >= 1


def test_a_submission_is_read_as_its_kinds_own_specification(row: Kind) -> None:
    spec = {"kind": row.name, **example(row)}

    submission = Submission.model_validate({"spec": spec})

    assert type(submission.spec) is row.spec
    assert Submission.model_validate_json(submission.model_dump_json()) == submission


def test_a_specification_cannot_be_changed_and_takes_no_unknown_field(row: Kind) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        row.spec.model_validate(example(row)).kind = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        row.spec.model_validate({**example(row), "invented": 1})


def test_an_unknown_kind_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ValidationError) as caught:
        Submission.model_validate({"spec": {"kind": "dancing"}})

    assert all(f"'{name}'" in str(caught.value) for name in KINDS)


def test_the_inputs_of_a_specification_are_every_artefact_it_names(row: Kind) -> None:
    spec = row.spec.model_validate(example(row))

    named = {value for _, value in spec if isinstance(value, UUID)}

    assert set(spec.inputs()) == named
    assert {spec.place_of(id) for id in named} == {f"/{name}" for name, value in spec if isinstance(value, UUID)}


def test_reading_the_table_imports_no_handler() -> None:
    program = "import sys, vlyard.jobs.kinds; print([name for name in ('torch', 'workers') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (ran.stdout, ran.stderr) == ("[]\n", "")
