"""What a training would be like: how long its samples are, and what memory and work it takes. It reads no weights."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlyard.formats.answer import parse_answer
from vlyard.formats.gallery import Exhibit, draw_gallery
from vlyard.formats.picture import open_picture
from vlyard.jobs.training_check import Lengths, TrainingCheckSpec
from workers.qwen.training.collating import Samples
from workers.qwen.training.estimates import Learning, Shape, seconds, shape_of
from workers.qwen.training.precision import needing_a_gpu
from workers.qwen.training.preparing import Prepared

_BINS = 20
_SHOWN = 5  # samples of the preview, and of the longest
_LARGEST_CARD = 80e9  # bytes: an A100's or an H100's


@dataclass(frozen=True)
class Survey:
    """A prepared dataset beside the model that is to learn it."""

    spec: TrainingCheckSpec
    prepared: Prepared
    model: Path  # a checkpoint's folder

    def numbers(self) -> dict[str, Any]:
        """The fields of `TrainingCheckResult`, but for its artefacts."""
        samples = self.prepared.learned
        return {
            "samples": len(samples),
            "held_out": len(self.prepared.held_out),
            "unusable": len(self.prepared.unusable),
            "too_long": sum(each.code == "too_long" for each in self.prepared.unusable),
            "tokens": sum(samples.lengths),
            "answer_tokens": int(samples.learned.sum()),
            "picture_tokens": self._picture_tokens,
            "lengths": histogram(samples.lengths),
            "prompt": self.prepared.prompt,
            "warnings": self.warnings(),
            "template": "model" if self.spec.chat_template is None else "specification",
            "min_pixels": self.prepared.min_pixels,
            "max_pixels": self.prepared.max_pixels,
            "parameters": self._shape.parameters,
            "weight_bytes": self._shape.weight_bytes(self._learning),
            "activation_bytes": self._activation_bytes(),
            "flops": self._flops(),
            "seconds": seconds(self._flops(), self.spec.gpus),
        }

    def report(self) -> dict[str, Any]:
        """The numbers, the reasons of what is unusable, and the longest samples."""
        samples = self.prepared.learned
        longest = sorted(range(len(samples)), key=lambda at: -samples.lengths[at])[:_SHOWN]
        numbers = self.numbers()
        return {
            **numbers,
            "lengths": numbers["lengths"].model_dump(),
            "unusable_by_code": dict(Counter(each.code for each in self.prepared.unusable).most_common()),
            "longest": [{"sample": samples.name(at), "tokens": samples.lengths[at]} for at in longest],
        }

    def warnings(self) -> tuple[str, ...]:
        """What can be learned, and is probably not meant or not possible everywhere."""
        found = self.prepared.frames.warnings()
        if not len(self.prepared.held_out):
            found.append("no sample is held out: nothing will tell learning from learning by heart")
        found += [f"{each.what}: a worker that has none refuses the training" for each in needing_a_gpu(self.spec)]
        needed = self._shape.weight_bytes(self._learning) + self._activation_bytes()
        if needed > _LARGEST_CARD:
            what = (
                f"it takes about {needed / 1e9:.0f} GB on each GPU, more than any card of {_LARGEST_CARD / 1e9:.0f} GB"
            )
            found.append(f"{what}: lower micro_batch or max_pixels, choose lora or qlora, or share it by fsdp")
        return tuple(found)

    def preview(self) -> list[dict[str, Any]]:
        """The first samples as the model will see them."""
        samples = self.prepared.learned
        return [_shown(samples, at) for at in range(min(_SHOWN, len(samples)))]

    def sheet(self) -> Image.Image | None:
        """Their pictures as the model will see them, with the boxes of the answers; None where they have none."""
        samples = self.prepared.learned
        exhibits = [each for at in range(min(_SHOWN, len(samples))) for each in _exhibits(samples, at)]
        return draw_gallery(exhibits) if exhibits else None

    def unusable(self) -> Iterator[dict[str, str]]:
        """Every sample that cannot be learned, and why."""
        return (asdict(each) for each in self.prepared.unusable)

    @cached_property
    def _shape(self) -> Shape:
        return shape_of(self.model)

    @property
    def _learning(self) -> Learning:
        spec = self.spec
        return Learning(
            spec.method, spec.parts, spec.lora_rank, spec.lora_modules, spec.precision or "pure_bf16",
            spec.gradient_checkpointing, spec.optimizer, spec.gpus, spec.sharding,
        )  # fmt: skip

    @cached_property
    def _picture_tokens(self) -> int:
        samples = self.prepared.learned
        return sum(samples.tokens_of(each) for each in samples.pictures)

    def _activation_bytes(self) -> int:
        """Of the longest samples that can come together, padded to the longest."""
        samples = self.prepared.learned
        longest = sorted(range(len(samples)), key=lambda at: -samples.lengths[at])[: self.spec.micro_batch]
        patches = sum(each.rows * each.columns for at in longest for each in samples.pictures_of(at))
        return self._shape.activation_bytes(self._learning, len(longest) * samples.lengths[longest[0]], patches)

    def _flops(self) -> float:
        patches = sum(each.rows * each.columns for each in self.prepared.learned.pictures)
        tokens = sum(self.prepared.learned.lengths)
        spec, samples = self.spec, len(self.prepared.learned)
        a_step = spec.micro_batch * spec.accumulation * spec.gpus
        epochs = spec.max_steps * a_step / samples if spec.max_steps else spec.epochs
        return epochs * self._shape.flops(self._learning, tokens, patches)


def histogram(lengths: "list[int] | Any") -> Lengths:
    """Of lengths in tokens, in at most 20 bins of equal width; there is at least one."""
    values = np.sort(np.asarray(lengths))
    smallest, largest = int(values[0]), int(values[-1])
    width = -(-(largest + 1 - smallest) // _BINS)
    edges = range(smallest, largest + width + 1, width)
    counts, _ = np.histogram(values, bins=list(edges))
    return Lengths(
        smallest=smallest,
        median=int(values[(len(values) - 1) // 2]),
        p95=int(values[(len(values) - 1) * 95 // 100]),
        largest=largest,
        edges=tuple(edges),
        counts=tuple(counts.tolist()),
    )


# --- the preview ----------------------------------------------------------------------------------------------


def _shown(samples: Samples, at: int) -> dict[str, Any]:
    ids, learned = samples.tokens(at)
    decode = samples.processor.tokenizer.decode
    runs = groupby(zip(ids.tolist(), learned.tolist(), strict=True), key=lambda each: each[1])
    return {
        "sample": samples.name(at),
        "tokens": samples.lengths[at],
        "answer_tokens": int(learned.sum()),
        "picture_tokens": sum(samples.tokens_of(each) for each in samples.pictures_of(at)),
        "parts": [{"text": decode([id for id, _ in run]), "learned": bool(kind)} for kind, run in runs],
        "pictures": [_picture(samples, each) for each in samples.pictures_of(at)],
    }


def _exhibits(samples: Samples, at: int) -> Iterator[Exhibit]:
    """The sample's pictures, in the size that the model sees; of several, boxes do not say which one they are in."""
    ids, learned = samples.tokens(at)
    pictures = samples.pictures_of(at)
    answer = samples.processor.tokenizer.decode(ids[learned == 1].tolist(), skip_special_tokens=True)
    boxes = [(each.box, each.label or "") for each in parse_answer(answer).boxed] if len(pictures) == 1 else []
    for each in pictures:
        seen = _picture(samples, each)
        picture = open_picture(samples.root / each.name).resize((seen["width"], seen["height"]))
        size = f"{seen['width']} × {seen['height']} pixels, {seen['tokens']} tokens"
        yield Exhibit(picture, boxes, (), (f"{samples.name(at)}, {each.name}", size))


def _picture(samples: Samples, picture: Any) -> Mapping[str, Any]:
    side = samples.processor.image_processor.patch_size
    return {
        "picture": picture.name,
        "width": picture.columns * side,
        "height": picture.rows * side,
        "tokens": samples.tokens_of(picture),
    }
