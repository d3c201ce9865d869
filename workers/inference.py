"""The inference job: from pictures and a question to the model's answers, what they found, and drawings of it."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from uuid import UUID

from PIL import Image

from vlyard.errors import Cancelled, Complaint, InvalidInput, OutOfMemory, UnreadablePicture, VLyardError
from vlyard.formats.drawing import draw_answer
from vlyard.jobs.inference import (
    Answer,
    Found,
    InferenceResult,
    InferenceSpec,
    PicturePart,
    PictureUrlPart,
    TextPart,
    Unanswered,
)
from workers.asking import Asker, Models, Said, own_models, said_about
from workers.context import Context
from workers.sight import Given


def run(spec: InferenceSpec, context: Context) -> InferenceResult:
    """Ask one of this process's models. Raises `UnreadablePicture`, `InvalidInput`, `Unavailable`, `OutOfMemory`."""
    return infer(spec, context, own_models())


def infer(spec: InferenceSpec, context: Context, models: Models) -> InferenceResult:
    """The same with these models. Where it is cancelled, the words so far are left with the context."""
    context.progress(None, "fetching the pictures")
    if spec.images:
        return _about_each(spec, context, models)
    said = _conversation(spec, context)
    shown = [part for each in said for part in each.content if isinstance(part, Given)]
    for each in shown:
        each.size()  # what is no picture is refused before a model is loaded
    with models.open(spec, context) as asker:
        answer = asker.ask(spec, said)
        result = _whole(InferenceResult(answers=(answer,), model=asker.used), context)
        return result.model_copy(update={"artefacts": _drawings(spec, context, asker, [(answer, shown)])})


def _about_each(spec: InferenceSpec, context: Context, models: Models) -> InferenceResult:
    """The same question about each picture. One that cannot be asked about harms no other, unless none can."""
    given, failed = _openable(spec, context)
    if not given:
        raise _none_of_them(list(failed.values()))
    with models.open(spec, context) as asker:
        with ThreadPoolExecutor(min(len(given), asker.at_once), "images") as threads:
            outcomes = dict(zip(given, threads.map(lambda each: _ask(spec, asker, each), given.values()), strict=True))
        answers = {image: said for image, said in outcomes.items() if isinstance(said, Answer)}
        failed |= {image: said for image, said in outcomes.items() if isinstance(said, VLyardError)}
        if not answers:
            raise _none_of_them(list(failed.values()))
        unanswered = [
            Unanswered(image=image, code=failed[image].code, message=str(failed[image]))
            for image in spec.images
            if image in failed
        ]
        result = InferenceResult(answers=tuple(answers.values()), unanswered=tuple(unanswered), model=asker.used)
        result = _whole(result, context)
        drawings = _drawings(spec, context, asker, [(said, [given[at]]) for at, said in answers.items()])
        return result.model_copy(update={"artefacts": drawings})


def _openable(spec: InferenceSpec, context: Context) -> tuple[dict[UUID, Given], dict[UUID, VLyardError]]:
    """The pictures, and what is wrong with those that are none."""
    given: dict[UUID, Given] = {}
    failed: dict[UUID, VLyardError] = {}
    for image in spec.images:
        try:
            given[image] = _given(image, context)
            given[image].size()
        except InvalidInput as error:
            given.pop(image, None)
            failed[image] = error
    return given, failed


def _ask(spec: InferenceSpec, asker: Asker, given: Given) -> Answer | VLyardError:
    """The answer, or why this picture has none."""
    try:
        return asker.ask(spec, said_about(spec, spec.question() or "", [given]))
    except (InvalidInput, OutOfMemory, Cancelled) as error:
        return error


def _none_of_them(errors: Sequence[VLyardError]) -> VLyardError:
    """What becomes of a job none of whose pictures has an answer: another attempt may help where memory ran out."""
    for error in errors:
        if isinstance(error, Cancelled | OutOfMemory):
            return error
    complaints = [Complaint("/spec/images", str(error)) for error in errors]
    if all(isinstance(error, UnreadablePicture) for error in errors):
        return UnreadablePicture("None of the pictures can be read", complaints)
    return InvalidInput("None of the pictures can be asked about", complaints)


def _conversation(spec: InferenceSpec, context: Context) -> Sequence[Said]:
    if not spec.messages:
        shown = [] if spec.image is None else [_given(spec.image, context)]
        return said_about(spec, spec.question() or "", shown)
    said = []
    for at, message in enumerate(spec.messages):
        content = (
            part.text
            if isinstance(part, TextPart)
            else _given_in(part, context, f"/spec/messages/{at}/content/{number}")
            for number, part in enumerate(message.content)
        )
        said.append(Said(message.role, tuple(content)))
    return said


def _given_in(part: PicturePart | PictureUrlPart, context: Context, place: str) -> Given:
    if isinstance(part, PicturePart):
        return _given(part.image, context)
    named = part.image_url.artefact
    return Given(part.image_url.content, place) if named is None else _given(named, context)


def _given(image: UUID, context: Context) -> Given:
    path = context.input(image)
    if path.is_dir():
        raise InvalidInput("a picture is a file", [Complaint(path.name, "it is a directory", "name one of its files")])
    return Given(path, path.name)


def _whole(result: InferenceResult, context: Context) -> InferenceResult:
    """The result; where the job was cancelled it is left with the context, and `Cancelled` is raised."""
    endings = {said.finish_reason for said in result.answers} | {each.code for each in result.unanswered}
    if Cancelled.code in endings:
        context.leave(result.model_dump(mode="json"))
        raise Cancelled
    return result


def _drawings(
    spec: InferenceSpec, context: Context, asker: Asker, answers: Iterable[tuple[Answer, Sequence[Given]]]
) -> dict[str, UUID]:
    """`annotated` where there is one picture, else `annotated-1` and so on; each is opened when it is drawn on."""
    if not spec.annotate:
        return {}
    pictures = [(said, number, each) for said, given in answers for number, each in enumerate(given)]
    names = ["annotated"] if len(pictures) == 1 else [f"annotated-{number}" for number in range(1, len(pictures) + 1)]
    published = {}
    for name, (said, number, given) in zip(names, pictures, strict=True):
        path = context.folder / f"{name}.png"
        asker.open(given, partial(_draw, [each for each in said.objects if each.picture == number], path))
        published[name] = context.publish(path, "image/png")
    return published


def _draw(found: Sequence[Found], path: Path, picture: Image.Image) -> None:
    draw_answer(picture, found).save(path)
