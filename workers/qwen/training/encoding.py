"""From a conversation to tokens, and which of them are learned. It knows no file and opens no picture.

The template says everything: a conversation is rendered as far as each answer, with the prompt to answer and with the
answer, and what the second has beyond the first is learned, up to and with the token that ends an answer. That is
what transformers' `return_assistant_tokens_mask` and TRL's `assistant_only_loss` learn with templates that mark it,
but for the line break behind the end, which no model is asked to say.

Words are tokenised with one placeholder for each picture. It stands alone among tokens, so repeating it afterwards
gives what tokenising the repeated words gives.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.answer import AnswerPoint, Flag, Note, parse_answer
from workers.qwen.loading import Processor
from workers.qwen.training.turns import Conversation, Turn, Unlearnable

# Words that the template says, and nobody else: whoever says them would take a picture's place, or another one's turn.
_RESERVED = (
    "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>",
    "<|endoftext|>",
)  # fmt: skip
_PROBE = (Turn("user", (None, "?")), Turn("assistant", ("!",)))


class Rendered(NamedTuple):
    """A conversation in the template's words."""

    text: str
    learned: tuple[tuple[int, int], ...]  # its parts that are learned, in characters: from, and up to


class Tokens(NamedTuple):
    """The same as tokens, with one placeholder for each picture."""

    ids: list[int]
    learned: list[int]  # 1 for each that is learned, else 0


class Encoder:
    """Renders and tokenises by one processor and template."""

    def __init__(self, processor: Processor, template: str | None) -> None:
        """Raises `InvalidInput` where the template is none, or renders no picture or no end of an answer."""
        self._processor, self._template = processor, template
        self._end: str = processor.tokenizer.eos_token or ""
        self._before = lru_cache(4096)(self._ask)
        where = "/spec/model" if template is None else "/spec/chat_template"
        if not self._end or processor.tokenizer.pad_token_id is None:
            what = "its tokenizer has no token that ends an answer, or none that fills a batch"
            raise InvalidInput("The model cannot be tuned", [Complaint("/spec/model", what, "give a Qwen3-VL")])
        try:
            self.render(Conversation(_PROBE, ("",)))
        except Unlearnable as error:
            raise InvalidInput("The chat template cannot be used", [Complaint(where, error.message)]) from error

    def render(self, conversation: Conversation) -> Rendered:
        """Raises `Unlearnable`."""
        turns = conversation.turns
        _expect_words(turns)
        learned, text = [], ""
        for at, turn in enumerate(turns, 1):
            if turn.role == "assistant":
                asked, before = self._before(turns[: at - 1]), text
                text = self._say(turns[:at], prompt=False)
                if not (text.startswith(asked) and text.startswith(before)):
                    what = "the chat template says what came before an answer in other words once it is given"
                    raise Unlearnable("template", f"{what}: what is learned cannot be told apart")
                learned.append((len(asked), self._end_of(text, len(asked))))
        if text.count(self._processor.image_token) != len(conversation.pictures):
            places = text.count(self._processor.image_token)
            what = f"the chat template has room for {places} pictures, and it has {len(conversation.pictures)}"
            raise Unlearnable("template", what)
        return Rendered(text, tuple(learned))

    def tokenise(self, rendered: Sequence[Rendered]) -> Iterator[Tokens]:
        """Many at once, which is several times as fast."""
        if not rendered:
            return
        found = self._processor.tokenizer([each.text for each in rendered], add_special_tokens=False)
        for at, each in enumerate(rendered):
            ids: list[int] = found["input_ids"][at]
            learned = [0] * len(ids)
            for begin, end in each.learned:
                first, last = found.char_to_token(at, begin), found.char_to_token(at, end - 1)
                learned[first : last + 1] = [1] * (last + 1 - first)
            yield Tokens(ids, learned)

    def _ask(self, turns: tuple[Turn, ...]) -> str:
        return self._say(turns, prompt=True)

    def _say(self, turns: Sequence[Turn], *, prompt: bool) -> str:
        messages = [{"role": turn.role, "content": [_part(part) for part in turn.parts]} for turn in turns]
        try:
            text: str = self._processor.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=prompt
            )
        except Exception as error:  # whatever a template raises: it is a program that came with something
            raise Unlearnable("template", f"the chat template refuses it: {error}") from error
        return text

    def _end_of(self, text: str, begin: int) -> int:
        end = text.rfind(self._end, begin)
        if end < 0:
            raise Unlearnable("template", f"the chat template does not end an answer by {self._end}")
        return end + len(self._end)


def _part(part: str | None) -> dict[str, Any]:
    return {"type": "image"} if part is None else {"type": "text", "text": part}


def _expect_words(turns: Sequence[Turn]) -> None:
    for turn in turns:
        words = turn.words
        for reserved in _RESERVED if "<|" in words else ():
            if reserved in words:
                raise Unlearnable("reserved_words", f"a turn of the {turn.role} contains {reserved}: leave it out")


# --- the form of answers --------------------------------------------------------------------------------------

_OUTSIDE = frozenset({Flag.OVER_1000, Flag.BELOW_0, Flag.SWAPPED_CORNERS, Flag.NUMBERS_AS_TEXT})


class _Form(NamedTuple):
    """What an answer must be."""

    notes: tuple[tuple[Note, ...], ...]  # one of these sets of notes is the parser's about it
    points: bool | None  # whether its objects are points; None: either
    words: str = ""  # what must be in it


_FORMS = {  # by the option `answers`
    "boxes": _Form(((),), points=False),
    "objects": _Form(((Note.WRAPPED,),), points=None, words='"objects"'),
    "points": _Form(((), (Note.WRAPPED,)), points=True),
}


def expect_form(conversation: Conversation, declared: str) -> None:
    """Raises `Unlearnable` where an answer has another form than was declared; `any` is every form."""
    form = _FORMS.get(declared)
    for turn in conversation.turns if form else ():
        if form and turn.role == "assistant":
            _expect(turn.words, form, declared)


def _expect(words: str, form: _Form, declared: str) -> None:
    answer = parse_answer(words)
    kinds = {isinstance(each, AnswerPoint) for each in answer.objects}
    if answer.notes not in form.notes or form.words not in words or (form.points is not None and kinds - {form.points}):
        noticed = ", ".join(answer.notes) or ("points" if True in kinds else "a plain list")
        raise Unlearnable("other_answer", f"its answer {words[:60]!r} is not of the form {declared}: it is {noticed}")
    if found := {flag for each in answer.objects for flag in each.flags} & _OUTSIDE:
        what = f"places in its answer {words[:60]!r} are no thousandths of the picture, in order"
        raise Unlearnable("other_answer", f"{what}: {', '.join(sorted(found))}")
