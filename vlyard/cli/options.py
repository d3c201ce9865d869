"""A model's fields as options of a command, and back: names, types, choices, defaults and help are the model's own.

Knows no command and no server. A field that takes an artefact is a text here: whoever uses it says what it means.
"""

import inspect
import json
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from vlyard.errors import Complaint, InvalidInput
from vlyard.jobs.repeating import can_be_emptied, option, takes_numbers

M = TypeVar("M", bound=BaseModel)

_FROM_FILE = "@"  # begins a value that names the file with the JSON
_WORDS = (str, int, float, bool)


def parameters(model: type[BaseModel], *without: str) -> list[inspect.Parameter]:
    """The model's fields as typer reads them: lists are repeatable options, tables are repeatable `key=value`."""
    fields = model.model_fields.items()
    return [_parameter(name, field) for name, field in fields if name not in without]


def collected(model: type[M], values: Mapping[str, Any]) -> M:
    """The model of what the command line gave; a field that is not among the values keeps its default.

    Raises `InvalidInput` that names the options.
    """
    return validated(model, given(model, values))


def validated(model: type[M], fields: Mapping[str, Any]) -> M:
    """The model of what the options say. Raises `InvalidInput` that names the options."""
    try:
        return model(**fields)
    except ValidationError as error:
        complaints = [_complaint(one["loc"], one["msg"], one["input"]) for one in error.errors()]
        raise InvalidInput("The options do not fit", complaints) from None


def given(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """What the options say, as the model takes it: tables and lists whole, JSON read, none where an empty text is."""
    read = {}
    for name, field in model.model_fields.items():
        value = values.get(name)
        if value is None or (isinstance(value, list | tuple) and not value):
            continue  # the default
        if can_be_emptied(field) and value in ("", [""], ("",)):
            value = () if is_repeated(field.annotation) else None
        elif is_nested(field.annotation):
            value = _json(name, value)
        elif is_table(field.annotation):
            value = table(name, value)
        elif isinstance(value, list | tuple):
            value = tuple(_word(each) for each in value) if takes_numbers(field.annotation) else tuple(value)
        read[name] = value
    return read


def _complaint(location: Sequence[str | int], message: str, given: object) -> Complaint:
    message = message.removeprefix("Value error, ")
    if not location:  # what several options together are
        return Complaint("the options", message)
    return Complaint(option(str(location[0])), f"{given!r} does not fit: {message}")


# --- what a field takes ---------------------------------------------------------------------------------------


def is_table(annotation: Any) -> bool:
    """Whether it is a dict, or a dict or None."""
    return any(get_origin(each) is dict for each in _alternatives(annotation))


def is_repeated(annotation: Any) -> bool:
    """Whether its option is given once for each part of the value."""
    return not is_nested(annotation) and any(get_origin(each) in {dict, tuple} for each in _alternatives(annotation))


def is_nested(annotation: Any) -> bool:
    """Whether it is made of other models, which are written as JSON."""
    return any(isinstance(each, type) and issubclass(each, BaseModel) for each in _leaves(annotation))


def is_artefact(annotation: Any) -> bool:
    """Whether it names artefacts, or may name one."""
    return not is_nested(annotation) and UUID in _leaves(annotation)


def _alternatives(annotation: Any) -> list[Any]:
    """What a union is made of, without None and without what only constrains."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        return [inner for each in get_args(annotation) for inner in _alternatives(each)]
    return [] if annotation is type(None) else [annotation]


def _leaves(annotation: Any) -> list[Any]:
    """The plain types that an annotation is made of."""
    leaves = []
    for each in _alternatives(annotation):
        inner = [one for one in get_args(each) if one is not Ellipsis]
        if get_origin(each) is Literal or not inner:
            leaves.append(each)
        else:
            leaves += [leaf for one in inner for leaf in _leaves(one)]
    return leaves


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    annotation = field.annotation
    repeated = is_repeated(annotation)
    flag = option(name) if _alternatives(annotation) != [bool] else f"{option(name)}/--no-{option(name)[2:]}"
    default: Any = inspect.Parameter.empty if field.is_required() else field.default
    kind: Any = _kind(annotation, required=field.is_required())
    if default == ():  # what nothing was given for
        default = None
    shown = Annotated[kind, typer.Option(flag, help=_help(field))]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=[] if repeated else default, annotation=shown
    )


def _kind(annotation: Any, *, required: bool) -> Any:
    """The type that typer reads: its own where there is one, else a text."""
    if is_repeated(annotation):
        return list[str]
    kind, *more = _alternatives(annotation)
    plain: Any = kind if not more and (kind in _WORDS or get_origin(kind) is Literal) else str
    return plain if required else plain | None


def _help(field: FieldInfo) -> str:
    said = field.description or ""
    if is_artefact(field.annotation):
        said += " An id, job:<id>/<output>, or a path here, which is uploaded."
    if is_table(field.annotation):
        return f"{said} Repeatable, as KEY=VALUE."
    if is_nested(field.annotation):
        return f"{said} As JSON, or @ and a file of it."
    if can_be_emptied(field):
        said += " Empty ('') for none."
    return f"{said} Repeatable." if is_repeated(field.annotation) else said


# --- what a text means ----------------------------------------------------------------------------------------


def _word(text: str) -> int | str:
    """A number where it looks like one, and a text otherwise, or in JSON's quotes."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | str) and not isinstance(value, bool) else text


def _json(name: str, text: str) -> Any:
    """What JSON says, on the line or in a file."""
    where = f"{option(name)} {text}" if text.startswith(_FROM_FILE) else option(name)
    try:
        if text.startswith(_FROM_FILE):
            text = Path(text.removeprefix(_FROM_FILE)).read_text("utf-8")
        return json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        complaint = Complaint(where, f"it cannot be read: {getattr(error, 'strerror', None) or error}")
    except RecursionError:
        complaint = Complaint(where, "it is nested too deeply to be read")
    except json.JSONDecodeError as error:
        complaint = Complaint(f"{where}:{error.lineno}", f"it is not JSON: {error.msg}", "or write @file.json")
    raise InvalidInput("The options do not fit", [complaint])


def table(name: str, values: Sequence[str]) -> dict[str, str]:
    """Of KEY=VALUE each; a key that has an = itself comes in JSON, as {"a=b": "c"}."""
    table: dict[str, str] = {}
    for value in values:
        if value.startswith("{"):
            table |= _json(name, value)
            continue
        key, mark, meaning = value.partition("=")
        if not mark:
            complaint = Complaint(f"{option(name)} {value}", "it has no =", "write KEY=VALUE")
            raise InvalidInput("The options do not fit", [complaint])
        table[key] = meaning
    return table
