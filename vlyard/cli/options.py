"""A model's fields as options of a command: their names, types, defaults and help are the model's own."""

import inspect
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError

from vlyard.errors import Complaint, InvalidInput

M = TypeVar("M", bound=BaseModel)

# What is repeated on a command line is named for one of them.
_SINGULAR = {"prompts": "prompt", "classes": "class", "attributes": "attribute"}


def parameters(model: type[BaseModel]) -> list[inspect.Parameter]:
    """The model's fields as typer reads them: lists are repeatable options, tables are repeatable `key=value`."""
    return [_parameter(name, field.annotation, field) for name, field in model.model_fields.items()]


def collected(model: type[M], values: Mapping[str, Any]) -> M:
    """The model of what the command line gave. Raises `InvalidInput` that names the options."""
    given = {}
    for name, field in model.model_fields.items():
        value = values[name]
        if isinstance(value, list):
            if not value:
                continue  # the default
            value = _table(name, value) if _is_table(field.annotation) else tuple(value)
        given[name] = value
    try:
        return model(**given)
    except ValidationError as error:
        complaints = [_complaint(one["loc"], one["msg"], one["input"]) for one in error.errors()]
        raise InvalidInput("The options do not fit", complaints) from None


def _complaint(location: Sequence[str | int], message: str, given: object) -> Complaint:
    message = message.removeprefix("Value error, ")
    if not location:  # what several options together are
        return Complaint("the options", message)
    return Complaint(_option(str(location[0])), f"{given!r} does not fit: {message}")


def _option(name: str) -> str:
    return "--" + _SINGULAR.get(name, name).replace("_", "-")


def _parameter(name: str, annotation: Any, field: Any) -> inspect.Parameter:
    repeated = _is_table(annotation) or get_origin(annotation) is tuple
    help_text = field.description + (" Repeatable, as KEY=VALUE." if _is_table(annotation) else "")
    option = typer.Option(
        _option(name), help=help_text + (" Repeatable." if repeated and "KEY" not in help_text else "")
    )
    kind: Any = list[str] if repeated else annotation
    default = [] if repeated else field.default
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )  # fmt: skip


def _is_table(annotation: Any) -> bool:
    """Whether it is a dict, or a dict or None."""
    if get_origin(annotation) in {Union, types.UnionType}:
        return any(map(_is_table, get_args(annotation)))
    return get_origin(annotation) is dict


def _table(name: str, values: Sequence[str]) -> dict[str, str]:
    table = {}
    for value in values:
        key, mark, meaning = value.partition("=")
        if not mark:
            complaint = Complaint(f"{_option(name)} {value}", "it has no =", "write KEY=VALUE")
            raise InvalidInput("The options do not fit", [complaint])
        table[key] = meaning
    return table
