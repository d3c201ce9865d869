"""One model that many threads ask at once. It knows no job, and not what an answer means.

1. the caller's thread encodes its question   2. the engine's thread, the only one that runs the model, takes waiting
questions into its batch   3. it gives every row one token after the other   4. the caller's thread reads the words
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Empty
from typing import NamedTuple

from PIL import Image

from vlyard.errors import Complaint, InvalidInput
from workers.qwen.batch import Row, rope_positions, text_device
from workers.qwen.companions import Room
from workers.qwen.desk import Desk, closed
from workers.qwen.features import FeatureCache
from workers.qwen.inputs import encode, patches, pixels_a_token, show, tokens_of
from workers.qwen.lengths import Lengths
from workers.qwen.loading import LoadedModel
from workers.qwen.request import Budget, Request, Shown
from workers.qwen.sampling import seeded
from workers.qwen.shift import serve
from workers.qwen.ticket import Ended, Reason, Ticket
from workers.qwen.words import Transcript, decode

_PATIENCE = 0.1  # seconds between two looks for a stop, while a question waits for its batch
_PATCHES_AHEAD = 2**16  # of a question, made by its caller: 400 MB; the engine's thread makes others as it needs them


def _never() -> None:
    """Nothing stops the work."""


def _nobody(words: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Limits:
    """How much a model does at a time."""

    batch_tokens: int  # of a batch: its rows × (longest question + longest answer that is expected)
    batch_rows: int
    wait_seconds: float  # that a question waits for company, where nobody runs; after the last, while others come
    feature_bytes: int  # of pictures' features that are kept


class Piece(NamedTuple):
    """One token of an answer."""

    text: str  # empty where it ends an answer or fills a row; a replacement character where it is part of a letter
    logprob: float  # under the model's own softmax: no temperature, no penalty, and nothing ruled out


@dataclass(frozen=True)
class Generation:
    """What the model said."""

    text: str
    finish_reason: Reason
    prompt_tokens: int
    completion_tokens: int  # with the one that ends the answer
    picture_tokens: int  # those of the prompt that stand for pictures
    seconds: float  # in its batch
    waited_seconds: float  # from the asking to its batch's beginning
    first_token_seconds: float  # from the asking to the first token
    rows: int  # of its batch when it began
    reused_pictures: int  # whose features were kept from an earlier question
    pieces: tuple[Piece, ...] | None = None  # its tokens, where the request wants them scored


class Engine:
    """Answers questions together. Safe to use from any number of threads."""

    def __init__(self, loaded: LoadedModel, limits: Limits) -> None:
        self._loaded: LoadedModel | None = loaded
        self._features = FeatureCache(limits.feature_bytes)
        self._lengths = Lengths()
        self._desk = Desk(Room(limits.batch_tokens, limits.batch_rows), limits.wait_seconds)
        self._thread = threading.Thread(
            target=serve, args=(loaded, self._desk, self._features), name=f"engine of {loaded.name}", daemon=True
        )
        self._thread.start()

    def pixels_of(self, sizes: Sequence[tuple[int, int]], budget: Budget) -> int:
        """How many pixels the model will see of pictures of these widths and heights.

        Raises `InvalidInput` where they alone are too many for the model's context.
        """
        loaded = self._model()
        tokens = sum(tokens_of(loaded.processor, size, budget) for size in sizes)
        _expect_room(loaded, tokens)
        return tokens * pixels_a_token(loaded.processor)

    def show(self, picture: Image.Image, budget: Budget) -> Shown:
        """An upright RGB picture, shrunk to what the model sees of it. Raises `InvalidInput`."""
        return show(self._model().processor, picture, budget)

    def ask(
        self,
        request: Request | Callable[[], Request],
        check: Callable[[], None] = _never,
        told: Callable[[str], None] = _nobody,
    ) -> Generation:
        """Blocks until the answer is there. Pictures are upright RGB ones.

        A request that takes time to make, such as reading its pictures, is best given as what makes it: questions that
        wait for a batch then know that this one is on its way.

        `check` is called at every token, from another thread, and ends the work by raising; its exception comes out
        unchanged, but for a `Cancelled` once the answer has begun: that gives the words so far. `told` hears the
        answer as it grows, piece by piece. Raises `InvalidInput` where the question is not valid or does not fit the
        model's context, `OutOfMemory`, and `Unavailable` once the engine is closed.
        """
        loaded = self._model()
        check()
        with self._desk.coming():
            request = request if isinstance(request, Request) else request()
            asked = time.monotonic()
            ticket = _ticket(loaded, request, self._features, self._lengths, check, listened=told is not _nobody)
            self._desk.add(ticket)
        try:
            ended = _outcome(ticket, told)
        finally:
            ticket.over = True
        if ended.reason != "cancelled":
            self._lengths.note(_alike(request), len(ended.tokens))
        assert ticket.began is not None
        assert ticket.first is not None
        encoded = ticket.row.encoded
        return Generation(
            text=ticket.transcript.text if ticket.transcript else decode(loaded.processor, ended.tokens),
            finish_reason=ended.reason,
            prompt_tokens=len(encoded.ids),
            completion_tokens=len(ended.tokens),
            picture_tokens=sum(shown.tokens for shown in encoded.shown),
            seconds=ended.moment - ticket.began,
            waited_seconds=ticket.began - asked,
            first_token_seconds=ticket.first - asked,
            rows=ticket.rows,
            reused_pictures=ticket.row.reused_pictures or 0,
            pieces=_pieces(loaded, ended.tokens, ticket.row.logprobs) if request.scored else None,
        )

    def close(self) -> None:
        """End the thread and let go of the model; who still waits for an answer gets `Unavailable`."""
        self._desk.close()
        self._thread.join()
        self._features.clear()
        self._loaded = None

    def _model(self) -> LoadedModel:
        if self._loaded is None:
            raise closed()
        return self._loaded


# --- the caller's side ----------------------------------------------------------------------------------------


def _ticket(
    loaded: LoadedModel,
    request: Request,
    features: FeatureCache,
    lengths: Lengths,
    check: Callable[[], None],
    *,
    listened: bool,
) -> Ticket:
    sampling = request.sampling
    encoded = encode(loaded.processor, request)
    room = _expect_room(loaded, len(encoded.ids))
    generator = seeded(sampling, text_device(loaded))
    row = Row(encoded, rope_positions(loaded, encoded), sampling, generator, scored=request.scored)
    ahead = 0
    for shown in encoded.shown:
        ahead += shown.grid[1] * shown.grid[2]
        if ahead <= _PATCHES_AHEAD and features.get(shown.key) is None:
            row.pixels[shown.key] = patches(loaded.processor, shown)
    words = Transcript(loaded.processor, sampling.stop) if sampling.stop or listened else None
    limit = min(sampling.max_new_tokens, room)
    return Ticket(row, limit, check, words, listened, partial(lengths.expected, _alike(request), limit))


def _alike(request: Request) -> tuple[str, int]:
    """What questions share whose answers have about the same length."""
    return request.alike, request.sampling.max_new_tokens


def _expect_room(loaded: LoadedModel, tokens: int) -> int:
    """How many tokens an answer to a question of so many may have. Raises `InvalidInput` where that is none."""
    room: int = loaded.model.config.text_config.max_position_embeddings - tokens
    if room < 1:
        what = f"with its pictures it has {tokens} tokens"
        raise InvalidInput(
            "The question does not fit the model",
            [Complaint("/spec/prompt", what, f"shorten it by {1 - room}, or show smaller pictures")],
        )
    return room


def _pieces(loaded: LoadedModel, tokens: list[int], logprobs: list[float]) -> tuple[Piece, ...]:
    """The engine may have gone on for a few tokens after the last."""
    told = zip(tokens, logprobs[: len(tokens)], strict=True)
    return tuple(Piece(decode(loaded.processor, [token]), logprob) for token, logprob in told)


def _outcome(ticket: Ticket, told: Callable[[str], None]) -> Ended:
    """What becomes of it."""
    while True:
        try:
            said = ticket.inbox.get(timeout=_PATIENCE if ticket.waiting else None)
        except Empty:
            if ticket.waiting:
                ticket.look()
            continue
        if isinstance(said, Ended):
            return said
        if isinstance(said, BaseException):
            raise said
        if said:
            told(said)
