"""What changed between two evaluations of the same pictures, of their `pictures.jsonl`. It knows no server.

A question is the same in both where it is the n-th about the same picture, whatever its words. An object of the truth
is the same where its label and its box are.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field

from vlyard.errors import Complaint, InvalidInput

_Key = tuple[str, int]  # a picture, and the how manyth question about it


class Standing(BaseModel):
    """Counts at an IoU of 0.5."""

    model_config = ConfigDict(frozen=True)

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def f1(self) -> float:
        """1 where there is nothing to find and nothing was found."""
        wrong = self.false_positives + self.false_negatives
        return 2 * self.true_positives / (2 * self.true_positives + wrong) if self.true_positives or wrong else 1.0

    @classmethod
    def total(cls, those: Iterable["Standing"]) -> Self:
        """All together."""
        counts = [(each.true_positives, each.false_positives, each.false_negatives) for each in those]
        right, false, missed = map(sum, zip(*counts, strict=True)) if counts else (0, 0, 0)
        return cls(true_positives=right, false_positives=false, false_negatives=missed)


class TrueObject(BaseModel):
    """An object of the truth."""

    model_config = ConfigDict(frozen=True)

    label: str
    bbox_2d: tuple[float, float, float, float] = Field(description="x1, y1, x2, y2 in 0..1000 of the picture.")


class Change(BaseModel):
    """A question whose answer is not as good as before, or better, or wrong in another way."""

    model_config = ConfigDict(frozen=True)

    picture: str
    sample: int = Field(description="Its number in the second evaluation.")
    question: str
    before: Standing
    after: Standing
    gained: tuple[TrueObject, ...] = Field(description="Objects that only the second evaluation found.")
    lost: tuple[TrueObject, ...] = Field(description="Objects that only the first one found.")
    f1_delta: float


class Comparison(BaseModel):
    """The second evaluation beside the first. Totals are of the questions that both have."""

    model_config = ConfigDict(frozen=True)

    questions: int = Field(description="That both have.")
    before: Standing
    after: Standing
    f1_before: float
    f1_after: float
    changed: tuple[Change, ...] = Field(description="The largest change of F1 first.")
    other_truth: int = Field(description="Questions of which the truth is not the same in both.")
    only_before: tuple[str, ...] = Field(description="Pictures of questions that only the first one has.")
    only_after: tuple[str, ...]


@dataclass(frozen=True)
class _Question:
    sample: int
    words: str
    standing: Standing
    truth: Counter[TrueObject]
    found: Counter[TrueObject]  # those of the truth that have a match


def compare(before: Path, after: Path) -> Comparison:
    """Of two files. Raises `InvalidInput` that names the file and the line, or says that no picture is in both."""
    first, second = _read(before), _read(after)
    both = [key for key in second if key in first]
    if not both:
        what, fix = f"no picture of it is in {before.name}", "compare evaluations of the same dataset"
        raise InvalidInput("The evaluations have nothing in common", [Complaint(str(after), what, fix)])
    old, new = (Standing.total(those[key].standing for key in both) for those in (first, second))
    changes = [change for key in both if (change := _change(key, first[key], second[key]))]
    return Comparison(
        questions=len(both),
        before=old,
        after=new,
        f1_before=old.f1,
        f1_after=new.f1,
        changed=tuple(sorted(changes, key=_by_size)),
        other_truth=sum(first[key].truth != second[key].truth for key in both),
        only_before=_pictures(first, second),
        only_after=_pictures(second, first),
    )


def _change(key: _Key, old: _Question, new: _Question) -> Change | None:
    if old.standing == new.standing and old.found == new.found:
        return None
    return Change(
        picture=key[0],
        sample=new.sample,
        question=new.words,
        before=old.standing,
        after=new.standing,
        gained=tuple((new.found - old.found).elements()),
        lost=tuple((old.found - new.found).elements()),
        f1_delta=new.standing.f1 - old.standing.f1,
    )


def _by_size(change: Change) -> tuple[float, int, str, int]:
    return -abs(change.f1_delta), -len(change.gained) - len(change.lost), change.picture, change.sample


def _pictures(those: Mapping[_Key, _Question], others: Mapping[_Key, _Question]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(picture for picture, number in those if (picture, number) not in others))


# --- reading --------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[_Key, _Question]:
    asked: Counter[str] = Counter()
    questions = {}
    for picture, question in _lines(path):
        asked[picture] += 1
        questions[picture, asked[picture]] = question
    return questions


def _lines(path: Path) -> Iterator[tuple[str, _Question]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                told = orjson.loads(line)
                yield str(told["picture"]), _question(told)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                what, fix = "it is no line of an evaluation", "give the `pictures` of an evaluation"
                complaint = Complaint(f"{path}:{number}", what, fix)
                raise InvalidInput("The evaluation cannot be read", [complaint]) from error


def _question(told: Mapping[str, Any]) -> _Question:
    truth = [TrueObject.model_validate(each) for each in told["truth"]]
    return _Question(
        int(told["sample"]),
        str(told["question"]),
        Standing.model_validate(told),
        Counter(truth),
        Counter(truth[pair["truth"]] for pair in told["matches"]),
    )
