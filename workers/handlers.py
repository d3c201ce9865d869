"""From the text in the kinds table to the function that it names."""

from collections.abc import Callable
from functools import cache
from importlib import import_module

from vlyard.jobs.kinds import Kind
from vlyard.jobs.spec import Result, Spec
from workers.context import Context

Handler = Callable[[Spec, Context], Result]


def load_handler(kind: Kind) -> Handler:
    """The kind's handler; imports its module, with whatever that needs."""
    return _named(kind.handler)


@cache
def _named(text: str) -> Handler:
    module, _, function = text.partition(":")
    handler: Handler = getattr(import_module(module), function)
    return handler
