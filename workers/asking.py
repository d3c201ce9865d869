"""From a specification to what a model's engine is asked, and from its words to a typed answer."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Literal, TypeVar

import structlog
from PIL import Image

from control.settings import Settings, load_settings
from vlyard.formats.answer import parse_answer
from vlyard.formats.picture import DEFAULT_MAX_PIXELS
from vlyard.jobs.generation import GenerationSpec
from vlyard.jobs.inference import Answer, ModelUsed, PictureSize
from workers.context import Context
from workers.found import found
from workers.models import resolve
from workers.qwen.engine import Engine, Generation, Limits
from workers.qwen.loading import LoadedModel, load_model
from workers.qwen.memory import give_back_freed_memory, is_device_lost
from workers.qwen.request import Budget, Request, Shown, Turn
from workers.qwen.sampling import Sampling
from workers.qwen.sharing import put_on
from workers.qwen.warm import Held, Source, WarmModels
from workers.sight import Given, PixelRoom

log = structlog.get_logger()

BATCHES_AHEAD = 2  # questions with the engine: one batch that it answers, and the next
_LOST_DEVICE_EXIT_CODE = 71
_PIXELS_A_TOKEN = 32 * 32  # Qwen3-VL's
_VAST = 2**23  # pixels whose memory is worth to be given back at once

_Made = TypeVar("_Made")
_MAKING = Lock()


@dataclass(frozen=True)
class Said:
    """What one side said, with pictures that nobody has looked at yet."""

    role: Literal["system", "user", "assistant"]
    content: tuple[str | Given, ...]


@dataclass(frozen=True)
class Rooms:
    """How much of pictures may be in memory at a time, in this process."""

    opened: PixelRoom  # whole, as their files have them
    asked: PixelRoom  # as the model sees them, from then on until it has answered


@dataclass(frozen=True)
class Asker:
    """A model that is held in memory, to be asked from any number of threads."""

    engine: Engine
    used: ModelUsed
    system: str | None  # what the model was trained to be told first
    rows: int  # how many questions it answers at a time
    rooms: Rooms
    check: Callable[[], None]  # raises when it is time to stop

    @property
    def at_once(self) -> int:
        """With how many questions at a time it is best asked."""
        return self.rows * BATCHES_AHEAD

    def ask(self, spec: GenerationSpec, said: Sequence[Said]) -> Answer:
        """Ask one question. Raises `UnreadablePicture`, `InvalidInput` and `OutOfMemory`."""
        return _answer(*self.hear(spec, said))

    def hear(
        self, spec: GenerationSpec, said: Sequence[Said], *, scored: bool = False
    ) -> tuple[Generation, list[PictureSize]]:
        """What the model says word for word, and the sizes of the pictures as displayed. Raises as `ask`."""
        budget = Budget(spec.min_pixels, spec.max_pixels)
        given = [part for each in said for part in each.content if isinstance(part, Given)]
        sizes: list[PictureSize] = []

        def make() -> Request:
            looked = [self._look(each, budget) for each in given]
            sizes.extend(size for _, size in looked)
            pictures = iter(shown for shown, _ in looked)
            turns = [
                Turn(each.role, tuple(part if isinstance(part, str) else next(pictures) for part in each.content))
                for each in said
            ]
            alike = spec.preset or spec.prompt or ""
            return Request(tuple(turns), sampling_of(spec), budget, scored, alike, self.system)

        with self.rooms.asked.hold(self.engine.pixels_of([each.size() for each in given], budget), self.check):
            return self.engine.ask(make, self.check), sizes

    def _look(self, given: Given, budget: Budget) -> tuple[Shown, PictureSize]:
        def look(picture: Image.Image) -> tuple[Shown, PictureSize]:
            return self.engine.show(picture, budget), PictureSize(width=picture.width, height=picture.height)

        return self.open(given, look)

    def open(self, given: Given, work: Callable[[Image.Image], _Made]) -> _Made:
        """Do something with the whole picture as displayed, which goes afterwards. Raises `UnreadablePicture`."""
        width, height = given.size()
        with self.rooms.opened.hold(width * height, self.check):
            try:
                return work(given.see())
            finally:
                if width * height >= _VAST:
                    give_back_freed_memory()


@dataclass(frozen=True)
class Models:
    """The models of one process: each is loaded once, and kept in memory while there is room."""

    settings: Settings
    warm: WarmModels[Engine]
    rooms: Rooms
    device_lost: Callable[[BaseException], None]  # called where the GPU answers this process no more

    @contextmanager
    def open(self, spec: GenerationSpec, context: Context) -> Iterator[Asker]:
        """The model that the specification names, held in memory for as long as the block lasts.

        Raises `InvalidInput` where there is no such model or it cannot be used, `Unavailable` where it cannot be
        fetched, and `OutOfMemory`.
        """
        try:
            with ExitStack() as stack:
                with context.preparing():  # a first fetch may take longer than any answer
                    context.progress(None, f"loading the model {spec.model}")
                    named = resolve(spec.model, spec.adapter, spec.gpus, context, self.settings)
                    source = stack.enter_context(named)
                    held = stack.enter_context(self.warm.hold(source, context.check))
                context.progress(None, "asking the model")
                used, rows = _used(spec, source, held), self.settings.batch_rows
                yield Asker(held.attached, used, held.loaded.system, rows, self.rooms, context.check)
        except RuntimeError as error:
            if is_device_lost(error):
                self.device_lost(error)
            raise


def make_models(settings: Settings) -> Models:
    """No model yet, with room and batches as the settings have it."""
    limits = Limits(
        batch_tokens=settings.batch_tokens,
        batch_rows=settings.batch_rows,
        wait_seconds=settings.batch_wait_seconds,
        feature_bytes=settings.feature_bytes,
    )
    # What is more than the batches ahead could not be with the engine anyway.
    rooms = Rooms(PixelRoom(DEFAULT_MAX_PIXELS), PixelRoom(settings.batch_tokens * BATCHES_AHEAD * _PIXELS_A_TOKEN))
    warm = WarmModels(
        settings.models_bytes, _load, lambda loaded: Engine(loaded, limits), beside=settings.feature_bytes
    )
    return Models(settings, warm, rooms, _end_process)


def _end_process(error: BaseException) -> None:
    """Nothing brings the GPU back but a new process: its supervisor starts one, and the leases of this one run out."""
    log.error("the GPU is lost: the worker ends", reason=str(error))
    os._exit(_LOST_DEVICE_EXIT_CODE)


def own_models() -> Models:
    """This process's own: the same for all its threads, also for those that ask for the first time together."""
    with _MAKING:  # a cache lets each of these make its own; two would load at once, which transformers does not bear
        return _made()


@lru_cache(maxsize=1)
def _made() -> Models:
    return make_models(load_settings())


def said_about(spec: GenerationSpec, question: str, pictures: Sequence[Given]) -> list[Said]:
    """One question about pictures, which come before it, as in Qwen's own examples."""
    system = [Said("system", (spec.system,))] if spec.system else []
    return [*system, Said("user", (*pictures, question))]


def _load(source: Source, base: LoadedModel | None) -> LoadedModel:
    if base is not None and source.adapter is not None:
        return put_on(base, source.adapter)
    return load_model(source.folder, source.adapter, source.gpus, revision=source.revision)


def sampling_of(spec: GenerationSpec) -> Sampling:
    """How a specification has answers chosen."""
    return Sampling(
        max_new_tokens=spec.new_tokens,
        do_sample=spec.do_sample,
        temperature=spec.temperature,
        top_p=spec.top_p,
        top_k=spec.top_k,
        repetition_penalty=spec.repetition_penalty,
        presence_penalty=spec.presence_penalty,
        frequency_penalty=spec.frequency_penalty,
        stop=spec.stop,
        seed=spec.seed,
    )


def _answer(said: Generation, sizes: Sequence[PictureSize]) -> Answer:
    answer = parse_answer(said.text)
    return Answer(
        text=said.text,
        objects=tuple(found(each, sizes) for each in answer.objects),
        count=answer.counted,
        thought=answer.thought,
        notes=tuple(note.value for note in answer.notes),
        pictures=tuple(sizes),
        finish_reason=said.finish_reason,
        prompt_tokens=said.prompt_tokens,
        picture_tokens=said.picture_tokens,
        completion_tokens=said.completion_tokens,
        first_token_seconds=said.first_token_seconds,
        waited_seconds=said.waited_seconds,
        generate_seconds=said.seconds,
        batch=said.rows,
        reused_pictures=said.reused_pictures,
    )


def _used(spec: GenerationSpec, source: Source, held: Held[Engine]) -> ModelUsed:
    loaded = held.loaded
    return ModelUsed(
        name=str(spec.model),
        adapter=None if spec.adapter is None else str(spec.adapter),
        revision=loaded.revision,
        attention=loaded.attention,
        attention_reason=loaded.attention_reason,
        dtype=str(loaded.dtype).removeprefix("torch."),
        dtype_reason=loaded.dtype_reason,
        device=str(loaded.device),
        gpus=loaded.gpus,
        bytes=loaded.bytes,
        warm=held.warm,
        load_seconds=held.load_seconds,
        notes=(*source.notes, *loaded.notes),
    )
