from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice

import pytest
import torch
from PIL import Image

from vlyard.demo.shapes import draw_scenes
from vlyard.jobs.conversion import DEFAULT_PROMPT
from workers.qwen.batch import Batch, Row, rope_positions
from workers.qwen.engine import Engine, Limits
from workers.qwen.features import FeatureCache, Features, look
from workers.qwen.inputs import encode
from workers.qwen.loading import LoadedModel
from workers.qwen.request import Budget, Request, Turn
from workers.qwen.sampling import GREEDY

LIMITS = Limits(batch_tokens=2**20, batch_rows=4, wait_seconds=0, feature_bytes=2**26)
SHORT = replace(GREEDY, max_new_tokens=2)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [scene.picture for scene in islice(draw_scenes(5), 3)]


def about(*content: str | Image.Image) -> Request:
    return Request((Turn("user", content),), SHORT)


def scores(loaded: LoadedModel, request: Request, cache: FeatureCache) -> tuple[torch.Tensor, int]:
    """Those of the answer's first token, and how many pictures were known."""
    encoded = encode(loaded.processor, request)
    row = Row(encoded, rope_positions(loaded, encoded), request.sampling, None)
    return Batch(loaded, [row], cache, torch.Generator()).scores, row.reused_pictures or 0


def test_a_picture_that_is_known_gives_the_same_scores_bit_for_bit(
    demo: LoadedModel, pictures: list[Image.Image]
) -> None:
    cache = FeatureCache(2**26)

    fresh, none = scores(demo, about(pictures[0], DEFAULT_PROMPT), cache)
    again, one = scores(demo, about(pictures[0].copy(), DEFAULT_PROMPT), cache)
    uncached, _ = scores(demo, about(pictures[0], DEFAULT_PROMPT), FeatureCache(0))

    assert (none, one) == (0, 1)
    assert torch.equal(fresh, again)
    assert torch.equal(fresh, uncached)


def test_pictures_looked_at_together_are_what_each_is_alone(demo: LoadedModel, pictures: list[Image.Image]) -> None:
    shown = encode(demo.processor, about(*pictures)).shown

    together, _ = look(demo, shown, FeatureCache(0), {})

    for each in shown:
        alone, _ = look(demo, [each], FeatureCache(0), {})
        torch.testing.assert_close(together[each.key].embeddings, alone[each.key].embeddings, atol=1e-5, rtol=0)
        for mine, theirs in zip(together[each.key].deepstack, alone[each.key].deepstack, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_a_picture_is_known_by_its_pixels_and_the_size_it_is_seen_in(
    demo: LoadedModel, pictures: list[Image.Image]
) -> None:
    changed = pictures[0].copy()
    changed.putpixel((3, 3), (1, 2, 3))
    question = about(pictures[0], "What is it?")

    with closing(Engine(demo, LIMITS)) as engine:
        assert engine.ask(question).reused_pictures == 0
        assert engine.ask(about(pictures[0].copy(), "And now?")).reused_pictures == 1
        assert engine.ask(about(pictures[1], pictures[0], "Which?")).reused_pictures == 1
        assert engine.ask(about(changed, "What is it?")).reused_pictures == 0
        assert engine.ask(replace(question, budget=Budget(256 * 256, 256 * 256))).reused_pictures == 0


def test_no_more_is_kept_than_fits_and_the_longest_unused_goes(demo: LoadedModel, pictures: list[Image.Image]) -> None:
    one, two, three = encode(demo.processor, about(*pictures)).shown
    size = look(demo, [one], FeatureCache(0), {})[0][one.key].held_bytes
    cache = FeatureCache(size * 2 + size // 2)

    look(demo, [one, two], cache, {})
    look(demo, [one], cache, {})  # so that the second is the longest unused
    _, kept = look(demo, [one, three], cache, {})

    assert kept == {one.key}
    assert cache.held_bytes == 2 * size
    assert [cache.get(each.key) is not None for each in (one, two, three)] == [True, False, True]


def test_what_is_kept_holds_no_memory_beside_its_own(demo: LoadedModel, pictures: list[Image.Image]) -> None:
    cache = FeatureCache(2**26)
    shown = encode(demo.processor, about(*pictures)).shown

    look(demo, shown, cache, {})

    kept = [cache.get(each.key) for each in shown]
    tensors = [tensor for each in kept if each for tensor in (each.embeddings, *each.deepstack)]
    assert cache.held_bytes == sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_an_engine_without_room_for_features_keeps_none(demo: LoadedModel, pictures: list[Image.Image]) -> None:
    with closing(Engine(demo, replace(LIMITS, feature_bytes=0))) as engine:
        assert [engine.ask(about(pictures[0], "What?")).reused_pictures for _ in range(2)] == [0, 0]


def test_the_same_features_twice_count_once() -> None:
    features = Features(torch.zeros(4, 8), (torch.zeros(4, 8),))
    cache = FeatureCache(10_000)

    cache.put(b"key", features)
    cache.put(b"key", features)

    assert cache.held_bytes == 2 * 4 * 8 * 4
    cache.clear()
    assert (cache.get(b"key"), cache.held_bytes) == (None, 0)
