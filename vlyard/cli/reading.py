"""What users write into files: a specification, or any JSON or YAML, with faults told by file and line."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vlyard.cli.sending import LocalFiles
from vlyard.client.problems import invalid
from vlyard.errors import Complaint, InvalidInput
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.spec import NoArtefact, Spec
from vlyard.jobs.view import Batch, Submission

_FIX = "name a file of JSON or YAML"


def read_submission(source: str, given: Mapping[str, object]) -> tuple[Submission, LocalFiles]:
    """Read a job to submit from a JSON or YAML file, or from standard input where `source` is "-".

    The file holds its kind and the kind's own fields, or a pipeline of this one job. What is given, and not None,
    goes before the file. The submission has ids in the place of the files that it names, which are there. Raises
    `InvalidInput` that names the file and the line or the field.
    """
    data, where = read(source)
    files = files_beside(source, data, where)
    wanted = files.checked(lambda written: _submission(written, source, where, given), lambda wanted: [wanted.spec])
    return wanted, files


def files_beside(source: str, data: object, where: str) -> LocalFiles:
    """The `file:PATH` in what was read from there: paths are relative to the file's folder."""
    folder = Path() if source == "-" else Path(source).parent
    fix = "paths are relative to " + ("where you are" if source == "-" else f"the folder of {where}")
    return LocalFiles(data, lambda _, text: (text, fix), folder)


def refused(error: ValidationError, where: str) -> InvalidInput:
    """What pydantic says about what was read from there, and what to do about it in such a file."""
    return invalid(error, where, {NoArtefact: "for a file or folder of this machine write file:PATH"})


def _submission(data: object, source: str, where: str, given: Mapping[str, object]) -> Submission:
    facts = {name: value for name, value in given.items() if value is not None}
    try:
        if not (isinstance(data, dict) and "jobs" in data):
            return Submission.model_validate({"spec": _spec(data, where), **facts})
        entries = Batch.model_validate(data).jobs
        if len(entries) == 1:
            return Submission.model_validate(entries[0].model_dump(exclude={"name"}) | facts)
    except ValidationError as error:
        raise refused(error, where) from error
    complaint = Complaint("/jobs", f"these are {len(entries)} jobs", f"run them with: vlyard run {source}")
    raise InvalidInput(f"{where} is no single job", [complaint])


def _spec(data: object, where: str) -> Spec:
    if not isinstance(data, dict):
        raise InvalidInput(f"{where} is no job: it has to be a mapping with `kind` and the kind's fields")
    row = KINDS.get(str(data.get("kind")))
    if row is None:
        complaint = Complaint("/kind", f"there is no kind {data.get('kind')!r}", f"kinds are {', '.join(KINDS)}")
        raise InvalidInput(f"{where} is not valid", [complaint])
    return row.spec.model_validate(data)


def read(source: str) -> tuple[Any, str]:
    """What a JSON or YAML file holds, and what to call the file; "-" is standard input."""
    where = "standard input" if source == "-" else source
    try:
        return _parsed(_text(source, where), where), where
    except RecursionError as error:
        raise InvalidInput(f"{where} is nested too deeply to be read") from error


def _text(source: str, where: str) -> str:
    if source == "-" and sys.stdin is None:
        raise InvalidInput("standard input is closed: name a file instead of -")
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
    except OSError as error:
        raise InvalidInput(f"{where} cannot be read: {error.strerror} ({_FIX})") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{where} is not text in UTF-8: {error.reason} at byte {error.start} ({_FIX})") from error


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if where.endswith(".json"):
            complaint = Complaint(f"{where}:{error.lineno}", error.msg)
            raise InvalidInput(f"{where} is not JSON", [complaint]) from error
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        complaint = Complaint(f"{where}:{line}", error.problem or "it cannot be parsed")
        raise InvalidInput(f"{where} is neither JSON nor YAML", [complaint]) from error
    except yaml.YAMLError as error:
        raise InvalidInput(f"{where} is neither JSON nor YAML: {error}") from error
