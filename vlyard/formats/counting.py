"""Counting the tokens of an answer as a model's own tokenizer does. It knows no model."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from vlyard.errors import Complaint, InvalidInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def count_tokens(tokenizer: Path, text: str) -> int:
    """How many tokens the text has, by a `tokenizer.json`, which each process reads once.

    Raises `InvalidInput` where the file is none, or where the package that reads it is not installed.
    """
    return len(_read(tokenizer).encode(text, add_special_tokens=False).ids)


@cache
def _read(path: Path) -> "Tokenizer":
    try:
        from tokenizers import Tokenizer
    except ImportError:
        complaint = Complaint(
            "max_answer_tokens", "the package `tokenizers` is not installed", "pip install tokenizers"
        )
        raise InvalidInput("Tokens cannot be counted", [complaint]) from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # it raises nothing more special
        complaint = Complaint("tokenizer", f"{path.name} cannot be read: {error}", "give a model's tokenizer.json")
        raise InvalidInput("Tokens cannot be counted", [complaint]) from error
