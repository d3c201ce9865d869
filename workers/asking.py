"""From a specification to what a model's engine is asked, and from its words to a typed answer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from control.settings import Settings, load_settings
from vlyard.errors import Complaint, UnreadablePicture
from vlyard.formats.answer import parse_answer
from vlyard.formats.picture import open_picture
from vlyard.jobs.generation import GenerationSpec
from vlyard.jobs.inference import Answer, ModelUsed, PictureSize
from workers.context import Context
from workers.found import found
from workers.models import resolve
from workers.qwen.engine import Engine, Generation, Limits
from workers.qwen.loading import LoadedModel, load_model
from workers.qwen.request import Budget, Request, Turn
from workers.qwen.sampling import Sampling
from workers.qwen.sharing import put_on
from workers.qwen.warm import Held, Source, WarmModels

_SLIMMEST = 200  # Qwen's own limit: transformers' smart_resize refuses what is slimmer


@dataclass(frozen=True)
class Asker:
    """A model that is held in memory, to be asked from any number of threads."""

    engine: Engine
    used: ModelUsed
    system: str | None  # what the model was trained to be told first
    rows: int  # how many questions it answers at a time
    check: Callable[[], None]  # raises when it is time to stop

    def ask(self, spec: GenerationSpec, turns: Sequence[Turn], pictures: Sequence[Image.Image]) -> Answer:
        """Ask about upright RGB pictures, which the turns show in that order. Raises `InvalidInput`, `OutOfMemory`."""
        request = Request(tuple(turns), sampling_of(spec), Budget(spec.min_pixels, spec.max_pixels), system=self.system)
        return _answer(self.engine.ask(request, self.check), pictures)


@dataclass(frozen=True)
class Models:
    """The models of one process: each is loaded once, and kept in memory while there is room."""

    settings: Settings
    warm: WarmModels[Engine]

    @contextmanager
    def open(self, spec: GenerationSpec, context: Context) -> Iterator[Asker]:
        """The model that the specification names, held in memory for as long as the block lasts.

        Raises `InvalidInput` where there is no such model or it cannot be used, `Unavailable` where it cannot be
        fetched, and `OutOfMemory`.
        """
        context.progress(None, f"loading the model {spec.model}")
        with (
            resolve(spec.model, spec.adapter, spec.gpus, context, self.settings) as source,
            self.warm.hold(source, context.check) as held,
        ):
            context.progress(None, "asking the model")
            yield Asker(held.attached, _used(spec, held), held.loaded.system, self.settings.batch_rows, context.check)


def make_models(settings: Settings) -> Models:
    """No model yet, with room and batches as the settings have it."""
    limits = Limits(
        batch_tokens=settings.batch_tokens,
        batch_rows=settings.batch_rows,
        wait_seconds=settings.batch_wait_seconds,
        feature_bytes=settings.feature_bytes,
    )
    return Models(settings, WarmModels(settings.models_bytes, _load, lambda loaded: Engine(loaded, limits)))


@lru_cache(maxsize=1)
def own_models() -> Models:
    """This process's own."""
    return make_models(load_settings())


def see(source: Path | bytes, name: str) -> Image.Image:
    """The picture as displayed, upright RGB. Raises `UnreadablePicture`, also for what no model of ours can look at."""
    picture = open_picture(source, name=name)
    if max(picture.size) > _SLIMMEST * min(picture.size):
        what = f"it is {picture.width} × {picture.height} pixels, and one side is more than {_SLIMMEST} times the other"
        raise UnreadablePicture("The picture cannot be shown to the model", [Complaint(name, what, "cut it in pieces")])
    return picture


def turns_about(spec: GenerationSpec, question: str, pictures: Sequence[Image.Image]) -> list[Turn]:
    """One question about pictures, which come before it, as in Qwen's own examples."""
    system = [Turn("system", (spec.system,))] if spec.system else []
    return [*system, Turn("user", (*pictures, question))]


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


def _answer(said: Generation, pictures: Sequence[Image.Image]) -> Answer:
    answer = parse_answer(said.text)
    sizes = [PictureSize(width=picture.width, height=picture.height) for picture in pictures]
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


def _used(spec: GenerationSpec, held: Held[Engine]) -> ModelUsed:
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
        bytes=loaded.bytes,
        warm=held.warm,
        load_seconds=held.load_seconds,
    )
