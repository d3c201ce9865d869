"""From a job to the texts that repeat it: a command line, a pipeline's YAML, and a Python program.

Each says only what differs from the defaults. What VLyard set by itself when the job was split up is left out: it
would be set again; and so is an `expires_at` that has passed. How a field is called on the command line is decided
here; `vlyard/cli/options.py` reads it.
"""

import itertools
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, get_args, get_origin
from uuid import UUID

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

import vlyard
from vlyard.errors import Complaint, InvalidInput
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.ours import as_asked
from vlyard.jobs.spec import Reference, Result, Spec
from vlyard.jobs.view import Job, Submission

# What is repeated on a command line is named for one of them.
_SINGULAR = {
    "attributes": "attribute",
    "classes": "class",
    "keys": "key",
    "lora_modules": "lora_module",
    "parts": "part",
    "prompts": "prompt",
    "splits": "split",
}
_LONGEST_ARGUMENT = 128 * 1024 - 1  # bytes, in Linux: MAX_ARG_STRLEN without the NUL at the end
_WIDTH = 88  # columns of a program, as formatters have them
_STEP = "    "
_BREAKS = frozenset("\x85\u2028\u2029\ufeff")  # what ends a line, or begins a file, in YAML


class Form(StrEnum):
    """What a job can be repeated with."""

    CLI = "cli"
    YAML = "yaml"
    PYTHON = "python"


def repeated(job: Job | Result, form: Form | str) -> str:
    """The text that repeats the job: a command line (`cli`), a pipeline (`yaml`), or a program (`python`).

    Of a result that a client returned, it repeats the job that brought it. Raises `InvalidInput` where this version
    cannot read its specification, where it is too long for a command line, for any other form, and for a result that no
    client returned.
    """
    if form not in tuple(Form):
        raise InvalidInput(f"a job is not repeated as {form!r}: choose from {', '.join(Form)}")
    done = job.job if isinstance(job, Result) else job
    if done is None:
        raise InvalidInput("no job is known that brought this result: only what a client returned is repeated")
    return _FORMS[Form(form)](submission_of(done))


def submission_of(job: Job) -> Submission:
    """What to submit to have the job once more."""
    row = KINDS.get(job.kind)
    if row is None:
        complaint = Complaint("kind", f"this version has no kind {job.kind!r}", "upgrade vlyard")
        raise InvalidInput(f"job {job.id} cannot be repeated from here", [complaint])
    stored = job.spec.model_dump(mode="json") if isinstance(job.spec, Spec) else job.spec
    try:
        spec = row.spec.model_validate(as_asked(row.spec, stored))
    except ValidationError as error:
        raise InvalidInput(f"job {job.id} does not fit this version: upgrade vlyard") from error
    due = job.expires_at if job.expires_at and job.expires_at > datetime.now(UTC) else None
    how = {"pool": job.pool, "priority": job.priority, "labels": job.labels, "max_runtime": job.max_runtime}
    return Submission(spec=spec, expires_at=due, **how)


def _different(model: BaseModel) -> Iterator[tuple[str, Any]]:
    """The fields that are not as they are by default, and those that have no default."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if field.is_required() or value != field.default:
            yield name, value


def _how(wanted: Submission) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in _different(wanted) if name != "spec")


# --- a command line -------------------------------------------------------------------------------------------


def option(name: str) -> str:
    """What a field is called on the command line."""
    return "--" + _SINGULAR.get(name, name).replace("_", "-")


def can_be_emptied(field: FieldInfo) -> bool:
    """Whether it has a value by default and may be without: on a command line an empty text says so."""
    if isinstance(field.default, tuple):
        return bool(field.default) and not any(getattr(each, "min_length", 0) for each in field.metadata)
    return not field.is_required() and field.default is not None and type(None) in get_args(field.annotation)


def takes_numbers(annotation: Any) -> bool:
    """Whether it is a list of numbers or texts: on a command line a text that looks like a number is in quotes."""
    return get_origin(annotation) is tuple and int in get_args(get_args(annotation)[0])


def _cli(wanted: Submission) -> str:
    words = ["vlyard", wanted.spec.kind]
    for name, value in _different(wanted.spec):
        words += _words(option(name), _plain(wanted.spec, name, value))
    for name, value in _how(wanted):
        words += _words(option("label" if name == "labels" else name), value)
    _insist_on_room(words)
    return shlex.join(words)


def _insist_on_room(words: list[str]) -> None:
    for before, word in itertools.pairwise(words):
        length = len(word.encode())
        if length > _LONGEST_ARGUMENT:
            flag = word.partition("=")[0] if word.startswith("--") else before
            what = f"it is {length:,} bytes long, and an argument has {_LONGEST_ARGUMENT:,} at most"
            raise InvalidInput("the job is too long for a command line", [Complaint(flag, what, "use yaml or python")])


def _plain(spec: Spec, name: str, value: Any) -> Any:
    if not takes_numbers(type(spec).model_fields[name].annotation):
        return value
    return tuple(json.dumps(each) if isinstance(each, str) and _looks_like_json(each) else each for each in value)


def _looks_like_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _words(flag: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield flag if value else f"--no-{flag[2:]}"
        return
    for text in _texts(value):
        yield from (f"{flag}={text}",) if text.startswith("-") else (flag, text)


def _texts(value: Any) -> Iterator[str]:
    """What stands behind the option, once for each time that it is given."""
    if isinstance(value, Mapping):
        for key, meaning in value.items():
            plain = "=" not in key and not key.startswith("{")
            yield f"{key}={meaning}" if plain else json.dumps({key: str(meaning)})
    elif value is None or value == ():
        yield ""  # by default there is one
    elif isinstance(value, tuple) and isinstance(value[0], BaseModel):
        yield json.dumps([each.model_dump(mode="json") for each in value], ensure_ascii=False)
    elif isinstance(value, tuple):
        yield from map(str, value)
    elif isinstance(value, datetime):
        yield value.isoformat()
    else:
        yield str(value)


# --- a pipeline -----------------------------------------------------------------------------------------------


def _yaml(wanted: Submission) -> str:
    stored = wanted.model_dump(mode="json")
    spec = {"kind": wanted.spec.kind} | {name: stored["spec"][name] for name, _ in _different(wanted.spec)}
    entry = {"spec": spec} | {name: stored[name] for name, _ in _how(wanted)}
    plainly = not _BREAKS & set(json.dumps(entry, ensure_ascii=False))  # PyYAML writes these unquoted, and loses them
    text: str = yaml.safe_dump({"jobs": [entry]}, sort_keys=False, allow_unicode=plainly, width=_WIDTH)
    return text


# --- a program ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Brackets:
    """An expression with parts, which stand in one line where there is room, or one below the other."""

    open: str
    parts: tuple[tuple[str, "_Node"], ...]  # what precedes each part, such as `name=`
    close: str
    lone_comma: bool = False  # whether a single part needs a comma, as a tuple's does


_Node = _Brackets | str


def _python(wanted: Submission) -> str:
    names: set[tuple[str, str]] = {("vlyard", "Client")}
    spec = _node(wanted.spec, names)
    asked = ("", spec), *((f"{name}=", _node(value, names)) for name, value in _how(wanted))
    call = _laid("job = ", _Brackets("client.submit(", asked, ")"), _STEP)
    after = "print(client.result(client.wait(job.id)))"
    return f"{_imports(names)}\n\nwith Client() as client:\n{_STEP}{call}\n{_STEP}{after}\n"


def _imports(names: set[tuple[str, str]]) -> str:
    lines = []
    for module in sorted({module for module, _ in names}):
        lines.append(f"from {module} import {', '.join(sorted(name for place, name in names if place == module))}")
    standard = [line for line in lines if not line.startswith("from vlyard")]
    ours = [line for line in lines if line.startswith("from vlyard")]
    return "\n".join([*standard, "", *ours] if standard else ours)


def _node(value: Any, names: set[tuple[str, str]]) -> _Node:
    """An expression for a value; what it takes from other modules joins the names."""
    if isinstance(value, BaseModel):
        return _Brackets(
            f"{_named(type(value), names)}(",
            tuple((f"{field}=", _node(each, names)) for field, each in _different(value)),
            ")",
        )
    if isinstance(value, UUID):
        return _Brackets(f"{_named(type(value), names)}(", (("", _literal(str(value))),), ")")
    if isinstance(value, datetime):
        names.add(("datetime", "datetime"))
        return _Brackets("datetime.fromisoformat(", (("", _literal(value.isoformat())),), ")")
    if isinstance(value, Mapping):
        return _Brackets("{", tuple((f"{_literal(key)}: ", _node(each, names)) for key, each in value.items()), "}")
    if isinstance(value, tuple):
        return _Brackets("(", tuple(("", _node(each, names)) for each in value), ")", lone_comma=True)
    return _literal(value)


def _named(kind: type, names: set[tuple[str, str]]) -> str:
    module = "vlyard" if kind.__name__ in vlyard.__all__ and kind is not Reference else kind.__module__
    names.add((module, kind.__name__))
    return kind.__name__


def _literal(value: object) -> str:
    """As formatters write it: in double quotes, unless these need more backslashes."""
    text = repr(value)
    if not isinstance(value, str) or text[0] == '"' or value.count('"') > value.count("'"):
        return text
    inner = text[1:-1].replace("\\'", "'").replace('"', '\\"')
    return f'"{inner}"'


def _flat(node: _Node) -> str:
    if isinstance(node, str):
        return node
    comma = "," if node.lone_comma and len(node.parts) == 1 else ""
    return node.open + ", ".join(before + _flat(part) for before, part in node.parts) + comma + node.close


def _laid(before: str, node: _Node, indent: str) -> str:
    """The expression behind what precedes it, from that column on, with room for a comma."""
    flat = before + _flat(node)
    if isinstance(node, str) or len(indent) + len(flat) < _WIDTH:
        return flat
    inner = indent + _STEP
    lines = [f"{inner}{_laid(name, part, inner)}," for name, part in node.parts]
    return "\n".join([before + node.open, *lines, indent + node.close])


_FORMS: Mapping[Form, Callable[[Submission], str]] = {Form.CLI: _cli, Form.YAML: _yaml, Form.PYTHON: _python}
