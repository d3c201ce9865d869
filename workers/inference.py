"""The inference job: from pictures and a question to the model's answers, what they found, and drawings of it."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from PIL import Image

from vlyard.errors import Complaint, InvalidInput, UnreadablePicture
from vlyard.formats.drawing import draw_answer
from vlyard.jobs.inference import (
    Answer,
    InferenceResult,
    InferenceSpec,
    PicturePart,
    PictureUrlPart,
    TextPart,
    Unanswered,
)
from workers.asking import Asker, Models, own_models, see, turns_about
from workers.context import Context
from workers.qwen.request import Turn

_Shown = Sequence[Image.Image]


def run(spec: InferenceSpec, context: Context) -> InferenceResult:
    """Ask one of this process's models. Raises `UnreadablePicture`, `InvalidInput`, `Unavailable`, `OutOfMemory`."""
    return infer(spec, context, own_models())


def infer(spec: InferenceSpec, context: Context, models: Models) -> InferenceResult:
    """The same with these models."""
    context.progress(None, "fetching the pictures")
    if spec.images:
        return _about_each(spec, context, models)
    turns, shown = _conversation(spec, context)
    with models.open(spec, context) as asker:
        answer = asker.ask(spec, turns, shown)
        drawings = _drawings(spec, context, [(answer, shown)])
        return InferenceResult(answers=(answer,), model=asker.used, artefacts=drawings)


def _about_each(spec: InferenceSpec, context: Context, models: Models) -> InferenceResult:
    """The same question about each picture. One that cannot be read harms no other, unless none can."""
    pictures: dict[UUID, Image.Image] = {}
    unanswered = []
    for image in spec.images:
        try:
            pictures[image] = _picture(image, context)
        except InvalidInput as error:
            unanswered.append(Unanswered(image=image, code=error.code, message=str(error)))
    if not pictures:
        complaints = [Complaint("/spec/images", each.message) for each in unanswered]
        raise UnreadablePicture("None of the pictures can be read", complaints)
    with models.open(spec, context) as asker:
        answers = _answers(spec, list(pictures.values()), asker)
        drawings = _drawings(spec, context, [(answer, [shown]) for answer, shown in answers])
        answered = tuple(answer for answer, _ in answers)
        return InferenceResult(
            answers=answered, unanswered=tuple(unanswered), model=asker.used, artefacts=drawings
        )  # fmt: skip


def _answers(spec: InferenceSpec, pictures: _Shown, asker: Asker) -> Sequence[tuple[Answer, Image.Image]]:
    question = spec.question() or ""

    def ask(picture: Image.Image) -> Answer:
        return asker.ask(spec, turns_about(spec, question, [picture]), [picture])

    with ThreadPoolExecutor(len(pictures), "images") as threads:
        return list(zip(threads.map(ask, pictures), pictures, strict=True))


def _conversation(spec: InferenceSpec, context: Context) -> tuple[Sequence[Turn], _Shown]:
    """The turns, and the pictures in them in their order."""
    if not spec.messages:
        shown = [] if spec.image is None else [_picture(spec.image, context)]
        return turns_about(spec, spec.question() or "", shown), shown
    pictures: list[Image.Image] = []
    turns = []
    for at, message in enumerate(spec.messages):
        content: list[str | Image.Image] = []
        for number, part in enumerate(message.content):
            if isinstance(part, TextPart):
                content.append(part.text)
                continue
            picture = _shown(part, context, f"/spec/messages/{at}/content/{number}")
            pictures.append(picture)
            content.append(picture)
        turns.append(Turn(message.role, tuple(content)))
    return turns, pictures


def _shown(part: PicturePart | PictureUrlPart, context: Context, place: str) -> Image.Image:
    if isinstance(part, PicturePart):
        return _picture(part.image, context)
    named = part.image_url.artefact
    return see(part.image_url.content, place) if named is None else _picture(named, context)


def _picture(image: UUID, context: Context) -> Image.Image:
    path = context.input(image)
    if path.is_dir():
        raise InvalidInput("a picture is a file", [Complaint(path.name, "it is a directory", "name one of its files")])
    return see(path, path.name)


def _drawings(spec: InferenceSpec, context: Context, answers: Sequence[tuple[Answer, _Shown]]) -> dict[str, UUID]:
    """`annotated` where there is one picture, else `annotated-1` and so on."""
    if not spec.annotate:
        return {}
    drawings = list(_drawn(answers))
    names = ["annotated"] if len(drawings) == 1 else [f"annotated-{number}" for number in range(1, len(drawings) + 1)]
    published = {}
    for name, drawing in zip(names, drawings, strict=True):
        path = context.folder / f"{name}.png"
        drawing.save(path)
        published[name] = context.publish(path, "image/png")
    return published


def _drawn(answers: Sequence[tuple[Answer, _Shown]]) -> Iterator[Image.Image]:
    for answer, shown in answers:
        for number, picture in enumerate(shown):
            yield draw_answer(picture, [each for each in answer.objects if each.picture == number])
