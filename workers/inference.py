"""The inference job: from a picture and a question to the model's answer, its boxes and a drawing of them."""

from pathlib import Path
from uuid import UUID

from PIL import Image

from control.settings import load_settings
from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.answer import AnswerObject, parse_answer
from vlyard.formats.drawing import draw_boxes
from vlyard.formats.picture import open_picture
from vlyard.jobs.inference import DetectedObject, InferenceResult, InferenceSpec
from workers.context import Context
from workers.qwen.generating import ask
from workers.qwen.loading import DEMO_FOLDER, WarmModels
from workers.qwen.sampling import Sampling

DEMO = "demo"  # the name of the model that comes with the product
WARM = WarmModels()  # one worker process, one set of models


def run(spec: InferenceSpec, context: Context) -> InferenceResult:
    """Ask the model about the picture. Raises `UnreadablePicture`, `InvalidInput` and `OutOfMemory`."""
    return infer(spec, context, WARM, load_settings().models_dir)


def infer(spec: InferenceSpec, context: Context, models: WarmModels, models_dir: Path | None) -> InferenceResult:
    """The same with these models; names other than `demo` are folders in `models_dir`."""
    context.progress(None, "fetching the picture")
    path = context.input(spec.image)
    picture = open_picture(path, name=path.name)
    context.progress(None, f"loading the model {spec.model}")
    loaded, warm = models.get(model_folder(spec.model, models_dir))
    context.progress(None, "asking the model")
    said = ask(loaded, picture, spec.prompt, _sampling(spec), context.check)
    answer = parse_answer(said.text)
    return InferenceResult(
        text=said.text,
        objects=tuple(_detected(each, picture) for each in answer.objects),
        notes=tuple(note.value for note in answer.notes),
        width=picture.width,
        height=picture.height,
        finish_reason=said.finish_reason,
        prompt_tokens=said.prompt_tokens,
        completion_tokens=said.completion_tokens,
        model=spec.model,
        attention=loaded.attention,
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
        warm=warm,
        load_seconds=0.0 if warm else loaded.load_seconds,
        generate_seconds=said.seconds,
        artefacts={"annotated": _publish_drawing(context, picture, answer.objects)} if spec.annotate else {},
    )


def model_folder(name: str, models_dir: Path | None) -> Path:
    """Where the model of that name is. Raises `InvalidInput` that lists the names there are."""
    if name == DEMO:
        return DEMO_FOLDER
    known = {path.name: path for path in sorted(models_dir.iterdir()) if path.is_dir()} if models_dir else {}
    if name not in known:
        raise InvalidInput(
            "There is no such model",
            [Complaint("/spec/model", f"this worker has no model {name!r}", f"it has {', '.join([DEMO, *known])}")],
        )
    return known[name]


def _sampling(spec: InferenceSpec) -> Sampling:
    return Sampling(spec.max_new_tokens, spec.do_sample, spec.temperature, spec.top_p, spec.top_k, spec.seed)


def _detected(found: AnswerObject, picture: Image.Image) -> DetectedObject:
    return DetectedObject(
        label=found.label,
        bbox_2d=found.box.to_thousand(),
        bbox_pixels=found.box.clamped().pixels(picture.width, picture.height),
        flags=tuple(flag.value for flag in found.flags),
    )


def _publish_drawing(context: Context, picture: Image.Image, objects: tuple[AnswerObject, ...]) -> UUID:
    path = context.folder / "annotated.png"
    draw_boxes(picture, [(each.box, each.label) for each in objects]).save(path)
    return context.publish(path, "image/png")
