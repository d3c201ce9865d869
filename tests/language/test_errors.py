"""The error tree: every class can be told apart by programs, and speaks for itself to people."""

import inspect
from collections import Counter
from collections.abc import Iterator

import pytest

import vlyard.errors
from vlyard.errors import Blame, Complaint, InvalidInput, UserError, VLyardError


def tree(top: type[VLyardError] = VLyardError) -> Iterator[type[VLyardError]]:
    yield top
    for below in top.__subclasses__():
        yield from tree(below)


def in_the_tree(kind: type[VLyardError]) -> bool:
    return kind.__module__ == vlyard.errors.__name__


ERRORS = [kind for kind in tree() if in_the_tree(kind)]


def test_every_exception_of_the_module_is_in_the_tree() -> None:
    defined = {thing for _, thing in inspect.getmembers(vlyard.errors, inspect.isclass) if issubclass(thing, Exception)}

    assert defined == set(ERRORS)


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_without_a_message_says_its_docstring(kind: type[VLyardError]) -> None:
    assert kind.__doc__, "the docstring is the message"
    assert str(kind()) == inspect.cleandoc(kind.__doc__)
    assert str(kind()).endswith(".")


def test_no_two_errors_share_a_code_and_none_inherits_one() -> None:
    assert [code for code, times in Counter(kind.code for kind in ERRORS).items() if times > 1] == []
    assert [kind for kind in ERRORS if "code" not in vars(kind)] == []


@pytest.mark.parametrize("kind", ERRORS)
def test_a_code_is_one_word_for_programs(kind: type[VLyardError]) -> None:
    assert kind.code.replace("_", "").isalpha()
    assert kind.code == kind.code.lower()


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_blames_the_user_exactly_where_the_caller_can_fix_it(kind: type[VLyardError]) -> None:
    assert isinstance(kind.blame, Blame)
    assert (kind.blame is Blame.USER) == issubclass(kind, UserError)


def test_complaints_are_said_after_the_message_with_where_what_and_fix() -> None:
    complaints = [Complaint("labels/7.txt:3", "class 9 is unknown", "add its name"), Complaint("/spec/prompt", "empty")]

    error = InvalidInput("Two things are wrong.", complaints)

    assert str(error) == (
        "Two things are wrong.; labels/7.txt:3: class 9 is unknown (add its name); /spec/prompt: empty"
    )
    assert error.complaints == tuple(complaints)
