"""From tokens to words, at once or as they come, and where the words end. It knows no model."""

from workers.qwen.loading import Processor

# Special tokens that mean something in an answer: Qwen2-VL's way to write a box. All others are left out.
_SPOKEN = ("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>")
_BROKEN = "\N{REPLACEMENT CHARACTER}"


def decode(processor: Processor, tokens: list[int]) -> str:
    """The text of tokens, without the special ones that end an answer or fill a row."""
    return _decode(processor, tokens, _silent(processor))


class Transcript:
    """An answer's text as it grows, up to the first of the words that end it."""

    def __init__(self, processor: Processor, stop: tuple[str, ...]) -> None:
        self._processor, self._stop = processor, stop
        self._silent = _silent(processor)
        self._pending: list[int] = []  # tokens that end in the middle of a character
        self._told = 0
        self.text = ""
        self.stopped = False

    def add(self, token: int) -> None:
        """Hear one more token."""
        self._pending.append(token)
        words = _decode(self._processor, self._pending, self._silent)
        if not words.endswith(_BROKEN):
            self._append(words)

    def end(self) -> None:
        """There are no more tokens."""
        self._append(_decode(self._processor, self._pending, self._silent))

    def news(self, *, last: bool) -> str:
        """What is new since the last call; what may yet become an ending word is kept back unless it is the last."""
        upto = len(self.text) if last or self.stopped else len(self.text) - self._doubtful()
        new = self.text[self._told : upto]
        self._told = max(self._told, upto)
        return new

    def _append(self, words: str) -> None:
        self._pending = []
        if self.stopped or not words:
            return
        before = len(self.text)
        self.text += words
        # Only what is new can complete an ending word.
        found = [self.text.find(word, max(0, before - len(word) + 1)) for word in self._stop]
        if ends := [at for at in found if at >= 0]:
            self.text, self.stopped = self.text[: min(ends)], True

    def _doubtful(self) -> int:
        """How many characters at the end may be the beginning of an ending word."""
        lengths = (n for word in self._stop for n in range(1, len(word)) if self.text.endswith(word[:n]))
        return max(lengths, default=0)


def _silent(processor: Processor) -> set[int]:
    tokenizer = processor.tokenizer
    return set(tokenizer.all_special_ids) - set(tokenizer.convert_tokens_to_ids(list(_SPOKEN)))


def _decode(processor: Processor, tokens: list[int], silent: set[int]) -> str:
    spoken = [token for token in tokens if token not in silent]
    text: str = processor.tokenizer.decode(spoken, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text.replace("\0", _BROKEN)  # no database stores a NUL in a text
