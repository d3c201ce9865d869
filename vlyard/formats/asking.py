"""From a picture with its objects to the questions that are asked about it. It knows no file format.

What is chosen by chance depends on the seed and the picture's name alone, so that every process, in any order and
number, asks the same.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats import faults
from vlyard.formats.answering import PLACEHOLDERS, answer_text
from vlyard.formats.classes import Classes
from vlyard.formats.counting import count_tokens
from vlyard.formats.options import Options
from vlyard.formats.ordering import by_class, by_position, by_size, chance, shuffled
from vlyard.formats.prompts import BETWEEN, OWN, PART, Language
from vlyard.formats.reading import Refused
from vlyard.formats.record import Question, Record, Target
from vlyard.formats.tree import storable

_SLOT = re.compile(r"\{(class|classes)\}")  # any other brace stands for itself
_CHINESE = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True, slots=True)
class Wording:
    """One way to ask."""

    text: str
    language: Language


@dataclass(frozen=True)
class Asker:
    """Asks about pictures as the options say; a plain value that can be pickled.

    `classes` are those that samples can name, with their new names. `tokenizer` is the `tokenizer.json` that counts
    for `max_answer_tokens`. Raises `InvalidInput`, which names the option, where a prompt holds a placeholder for a
    picture, or names what the question cannot know; and where tokens cannot be counted.
    """

    options: Options
    classes: Classes
    tokenizer: Path | None = None

    def __post_init__(self) -> None:
        for wording in chain(self._first, self._others):
            self._check(wording.text)
        if self._named:
            _check_names(self._names)
        if self.options.max_answer_tokens is not None:
            if self.tokenizer is None:
                complaint = Complaint("tokenizer", "there is none", "`max_answer_tokens` needs a tokenizer.json")
                raise InvalidInput("Tokens cannot be counted", [complaint])
            count_tokens(self.tokenizer, "")

    def questions(self, record: Record) -> tuple[Question, ...]:
        """What to ask about the picture, and what answers it.

        The wordings of one picture differ while there are others left. With `ask: each`, every class that the picture
        shows is asked for, and classes that it does not show: `negatives` times as many, on average (a picture that
        shows none counts as one that shows one; without `negatives` they are as many as those shown). Beyond the
        limits of an answer, each question becomes several, for parts that are numbered by position or size. Raises
        `Refused` where the options do not split, or one object alone is too long.
        """
        if self.plain:
            return (self._question(self.plain, record.targets),)
        deck, dealt = self._deck(record.picture), 0
        questions: list[Question] = []
        for name, targets in self._subjects(record):
            parts = self._parts(record.picture, targets)
            for _ in range(self.options.questions):
                wording = deck[dealt % len(deck)]
                dealt += 1
                text = self._filled(wording, name)
                questions += self._asked(text, wording.language, parts)
        return tuple(questions)

    # --- what is said -----------------------------------------------------------------------------------------

    @cached_property
    def _languages(self) -> tuple[Language, ...]:
        return ("en", "zh") if self.options.language == "both" else (self.options.language,)

    @cached_property
    def _own(self) -> Sequence[tuple[Wording, ...]]:
        """VLyard's own wordings, by language; none where the user gave some."""
        if self.options.prompts:
            return ()
        table = OWN[self.options.ask, self.options.targets]
        return [tuple(Wording(text, language) for text in table[language]) for language in self._languages]

    @cached_property
    def _first(self) -> tuple[Wording, ...]:
        """Those that a picture's first questions use: of VLyard's own, the first in each language."""
        return tuple(wordings[0] for wordings in self._own)

    @cached_property
    def _others(self) -> tuple[Wording, ...]:
        users = (Wording(text, "zh" if _CHINESE.search(text) else "en") for text in self.options.prompts)
        return (*users, *(wording for wordings in self._own for wording in wordings[1:]))

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """The distinct names of the classes, in their order."""
        return tuple(dict.fromkeys((self.classes.names or {}).values()))

    @cached_property
    def _ranks(self) -> dict[str, int]:
        return {name: rank for rank, name in enumerate(self._names)}

    @cached_property
    def _named(self) -> bool:
        """Whether prompts name classes."""
        return any(_SLOT.search(wording.text) for wording in chain(self._first, self._others))

    @cached_property
    def plain(self) -> str:
        """What is asked about every picture, once, where nothing is to be chosen, ordered or counted; else empty."""
        chosen = self.options
        limited = chosen.max_boxes is not None or chosen.max_answer_tokens is not None
        if chosen.ask == "each" or chosen.questions > 1 or chosen.order != "source" or limited:
            return ""
        wordings = self._first or self._others
        return self._filled(wordings[0], "") if len(wordings) == 1 else ""

    def _deck(self, picture: str) -> list[Wording]:
        seed = self.options.seed
        return [*shuffled(self._first, seed, picture, "first"), *shuffled(self._others, seed, picture, "wording")]

    def _filled(self, wording: Wording, name: str) -> str:
        among = {"class": storable(name), "classes": BETWEEN[wording.language].join(map(storable, self._names))}
        return _SLOT.sub(lambda slot: among[slot[1]], wording.text)

    def _check(self, prompt: str) -> None:
        slots = set(_SLOT.findall(prompt))
        for placeholder in PLACEHOLDERS:
            if placeholder in prompt:
                raise _unusable(prompt, f"it contains {placeholder}", "leave it out: the picture comes first")
        if "class" in slots and self.options.ask != "each":
            raise _unusable(prompt, "only `ask: each` asks for one {class}", "use {classes}, or `ask: each`")
        if "class" not in slots and self.options.ask == "each":
            raise _unusable(prompt, "it does not say which class `ask: each` asks for", "write {class} into it")
        if "classes" in slots and not self._names:
            fix = "give the set a file of class names, or ask for all objects"
            raise _unusable(prompt, "the names of {classes} are not known", fix)

    # --- what is asked for ------------------------------------------------------------------------------------

    def _subjects(self, record: Record) -> Iterator[tuple[str, Sequence[Target]]]:
        """What one question asks for: a class, or nothing in particular, and its objects."""
        if self.options.ask != "each":
            yield "", record.targets
            return
        shown: dict[str, list[Target]] = {}
        for target in by_class(record.targets, self._ranks):
            shown.setdefault(target.label, []).append(target)
        yield from shown.items()
        absent = [name for name in self._names if name not in shown]
        for name in shuffled(absent, self.options.seed, record.picture, "absent")[: self._wanted_absent(record, shown)]:
            yield name, ()

    def _wanted_absent(self, record: Record, shown: dict[str, list[Target]]) -> int:
        ratio = 1.0 if self.options.negatives is None else self.options.negatives
        whole = ratio * max(len(shown), 1)
        more = chance(self.options.seed, record.picture, "absents") / 2**64 < whole % 1
        return math.floor(whole) + more

    # --- what answers it --------------------------------------------------------------------------------------

    @property
    def _counted_by(self) -> str:
        """The numbering that parts go by: the order of the answers where a picture shows it."""
        return "size" if self.options.order == "size" else "position"

    def _parts(self, picture: str, targets: Sequence[Target]) -> list[list[Target]]:
        """The objects in their order, in as many parts as the limits make of them."""
        whole = self._ordered(picture, targets)
        excess = self._excess(whole)
        if excess is None:
            return [whole]
        if self.options.overflow == "refuse":
            raise Refused(excess)
        counted = by_size(targets) if self._counted_by == "size" else by_position(targets)
        parts: list[list[Target]] = []
        while counted:
            part = self._longest(picture, counted)
            parts.append(part)
            counted = counted[len(part) :]
        return parts

    def _longest(self, picture: str, counted: list[Target]) -> list[Target]:
        """The longest beginning that fits one answer, in the answer's order. Raises `Refused` where none does."""
        most = min(len(counted), self.options.max_boxes or len(counted))
        longest = self._part(picture, counted[:most])
        excess = self._excess(longest)
        if excess is None:
            return longest
        fitting, beyond = 0, most
        while beyond - fitting > 1:
            middle = (fitting + beyond) // 2
            part = self._part(picture, counted[:middle])
            found = self._excess(part)
            if found is None:
                fitting, longest = middle, part
            else:
                beyond, excess = middle, found
        if not fitting:
            raise Refused(excess)
        return longest

    def _excess(self, targets: Sequence[Target]) -> faults.Finding | None:
        """By what an answer of these is too long, if it is."""
        boxes, tokens = self.options.max_boxes, self.options.max_answer_tokens
        if boxes is not None and len(targets) > boxes:
            return faults.TOO_MANY_OBJECTS.found(count=len(targets), limit=boxes)
        if tokens is None or self.tokenizer is None:
            return None
        count = count_tokens(self.tokenizer, answer_text(targets, self.options))
        return faults.ANSWER_TOO_LONG.found(count=count, limit=tokens) if count > tokens else None

    def _question(self, prompt: str, targets: tuple[Target, ...]) -> Question:
        return Question(prompt, targets, answer_text(targets, self.options))

    def _asked(self, text: str, language: Language, parts: list[list[Target]]) -> Iterator[Question]:
        """The question, or one for each part, which says what part it is."""
        if len(parts) == 1:
            yield self._question(text, tuple(parts[0]))
            return
        first = 1
        for number, part in enumerate(parts, 1):
            last = first + len(part) - 1
            note = PART[self._counted_by, language].format(part=number, parts=len(parts), first=first, last=last)
            yield self._question(text + note, tuple(part))
            first = last + 1

    def _ordered(self, picture: str, targets: Sequence[Target]) -> list[Target]:
        if self.options.order == "position":
            return by_position(targets)
        if self.options.order == "size":
            return by_size(targets)
        return self._part(picture, list(targets))

    def _part(self, picture: str, counted: list[Target]) -> list[Target]:
        """In the answer's order where that is not the one they are counted in."""
        if self.options.order == "class":
            return by_class(counted, self._ranks)
        if self.options.order == "shuffled":
            return shuffled(counted, self.options.seed, picture, "order")
        return counted


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        for placeholder in PLACEHOLDERS:
            if placeholder in name:
                complaint = Complaint(
                    "rename", f"a prompt cannot name the class {name!r}", f"{placeholder} has a meaning"
                )
                raise InvalidInput("A class's name cannot stand in a prompt", [complaint])


def _unusable(prompt: str, what: str, fix: str) -> InvalidInput:
    shown = prompt if len(prompt) <= 60 else prompt[:57] + "..."
    return InvalidInput("The prompt cannot be used", [Complaint("prompts", f"{shown!r}: {what}", fix)])
