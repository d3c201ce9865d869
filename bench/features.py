"""Questions a second about a picture that was asked about before.

The baseline is the same engine without its memory of pictures, so that it looks at the picture for every question. How
much there is to win depends on what looking costs beside speaking; the model here has about Qwen3-VL-2B's proportion,
counted in floating-point operations for the same picture, question and answer, and printed with the figure.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import torch

from bench.figure import Figure, in_turns
from bench.stage import Stage
from vlyard.demo.shapes import draw_scenes
from workers.qwen.demo.architecture import Shape, build_untrained
from workers.qwen.engine import Engine, Limits
from workers.qwen.loading import Model, load_model
from workers.qwen.request import Budget, Request, Turn
from workers.qwen.sampling import Sampling

_SIDE = 512  # pixels: 256 tokens
_QUESTIONS, _TOKENS = 12, 16
_WORDS = 24  # tokens of a question, about
_REMEMBERING = Limits(batch_tokens=2**16, batch_rows=1, wait_seconds=0, feature_bytes=2**28)


@dataclass(frozen=True)
class Proportions:
    """What decides how much a model computes."""

    hidden: int
    feed_forward: int
    layers: int
    kv_width: int  # of all key heads together
    vocabulary: int
    vision_hidden: int
    vision_feed_forward: int
    vision_layers: int
    deepstack: int

    @classmethod
    def of(cls, model: Model) -> Self:
        """Those of a model that is built."""
        text, vision = model.config.text_config, model.config.vision_config
        return cls(
            hidden=text.hidden_size,
            feed_forward=text.intermediate_size,
            layers=text.num_hidden_layers,
            kv_width=text.num_key_value_heads * text.head_dim,
            vocabulary=text.vocab_size,
            vision_hidden=vision.hidden_size,
            vision_feed_forward=vision.intermediate_size,
            vision_layers=vision.depth,
            deepstack=len(vision.deepstack_visual_indexes),
        )

    def language(self, read: int, spoken: int) -> float:
        """FLOPs of reading so many tokens and speaking so many: two for each weight and token, and attention."""
        layer = self.hidden * (2 * self.hidden + 2 * self.kv_width + 3 * self.feed_forward)
        tokens = read + spoken
        attention = 2 * self.hidden * (read**2 + 2 * read * spoken + spoken**2)
        return 2 * self.layers * layer * tokens + self.layers * attention + 2 * self.hidden * self.vocabulary * spoken

    def vision(self, patches: int) -> float:
        """FLOPs of looking at so many patches of 16 × 16 pixels; four of them become a token."""
        width = self.vision_hidden
        layer = 4 * width**2 + 2 * width * self.vision_feed_forward
        merger = (4 * width) ** 2 + 4 * width * self.hidden
        return (
            2 * self.vision_layers * layer * patches
            + 4 * self.vision_layers * width * patches**2
            + 2 * (1 + self.deepstack) * merger * patches / 4
        )

    def ratio(self) -> float:
        """Looking to speaking, for this bench's picture and questions."""
        tokens = (_SIDE // 32) ** 2
        return self.vision(tokens * 4) / self.language(tokens + _WORDS, _TOKENS)


# https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct/blob/main/config.json
QWEN3_VL_2B = Proportions(2048, 6144, 28, 8 * 128, 151_936, 1024, 4096, 24, 3)
SHAPE = Shape(layers=6, hidden=512, vision_layers=4, vision_hidden=192, deepstack=(0, 1, 2))


def measure(stage: Stage) -> Sequence[Figure]:  # noqa: ARG001 - it needs no servers
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        build_untrained(Path(folder, "model"), seed=1, shape=SHAPE)
        loaded = load_model(Path(folder, "model"))
        remembering, forgetting = Engine(loaded, _REMEMBERING), Engine(loaded, replace(_REMEMBERING, feature_bytes=0))
        ours, theirs = in_turns(lambda: _questions_a_second(remembering), lambda: _questions_a_second(forgetting))
        remembering.close()
        forgetting.close()
    torch.set_num_threads(threads)
    ratio, real = Proportions.of(loaded.model).ratio(), QWEN3_VL_2B.ratio()
    said = f"looking at it anew (vision:language {ratio:.2f}, in Qwen3-VL-2B {real:.2f})"
    return [Figure("questions about the same picture", "answers/s", "more", ours, said, theirs)]


def _questions_a_second(engine: Engine) -> float:
    [scene] = islice(draw_scenes(5), 1)
    picture = scene.picture.resize((_SIDE, _SIDE))
    sampling = Sampling(max_new_tokens=_TOKENS, temperature=1.5, top_k=100, top_p=1.0)
    began = time.perf_counter()
    for number in range(_QUESTIONS):
        question = f"Question {number}: where is the object in this picture, and what colour has it?"
        engine.ask(Request((Turn("user", (picture, question)),), sampling, Budget(max_pixels=_SIDE**2)))
    return _QUESTIONS / (time.perf_counter() - began)
