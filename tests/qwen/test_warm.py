import math
import random
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.qwen.yards import Bell, Yard, lay_out
from vlyard.errors import Cancelled, InvalidInput
from workers.qwen.demo.architecture import Shape, build_untrained
from workers.qwen.loading import LoadedModel, load_model
from workers.qwen.warm import Source, WarmModels

MIB = 2**20


@pytest.fixture
def yard(untrained: Path, tmp_path: Path) -> Yard:
    return lay_out(untrained, tmp_path)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_model_is_loaded_once_and_warm_afterwards(yard: Yard) -> None:
    models, (one, *_) = yard.models(3), yard.sources

    with models.hold(one) as first:
        pass
    with models.hold(Source(one.folder)) as second:
        pass

    assert (first.warm, second.warm, yard.loads) == (False, True, ["one"])
    assert first.load_seconds > 0
    assert second.load_seconds == 0
    assert first.loaded is second.loaded
    assert first.attached is second.attached
    assert models.bytes == first.loaded.bytes


def test_a_model_whose_files_were_replaced_is_loaded_anew_and_so_is_what_shares_it(yard: Yard) -> None:
    models, (one, *_) = yard.models(4), yard.sources
    tuned = yard.adapter("tuned")
    with models.hold(tuned), models.hold(one) as before:
        pass

    build_untrained(one.folder, seed=7)
    with models.hold(tuned) as other, models.hold(one) as after:
        assert (other.warm, after.warm) == (False, True)
        assert after.loaded is not before.loaded

    assert yard.loads == ["one", "tuned"] * 2


def test_a_model_that_several_threads_ask_for_is_loaded_once(yard: Yard) -> None:
    models, together = yard.models(3), threading.Barrier(4)

    def hold(_: int) -> tuple[int, bool]:
        together.wait()
        with models.hold(yard.sources[0]) as held:
            return id(held.loaded), held.load_seconds > 0

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(hold, range(4)))

    assert len({model for model, _ in answers}) == 1
    assert all(waited for _, waited in answers)  # who waited for another's loading says so
    assert yard.loads == ["one"]


def test_the_longest_unused_model_leaves_first_and_is_closed(yard: Yard) -> None:
    models, (one, two, three) = yard.models(2), yard.sources
    bells = []
    for source in (one, two, one, three, one):
        with models.hold(source) as held:
            bells.append(held.attached)

    assert [bell.closed for bell in bells] == [False, True, False, False, False]
    assert yard.loads == ["one", "two", "three"]


def test_a_model_that_is_held_never_leaves_and_who_needs_its_room_waits(yard: Yard) -> None:
    models, (one, two, _) = yard.models(1), yard.sources
    order: list[str] = []

    def other() -> None:
        with models.hold(two):
            order.append("two is in")

    with models.hold(one) as held:
        waiter = threading.Thread(target=other)
        waiter.start()
        time.sleep(0.3)
        assert not held.attached.closed
        with models.hold(one) as again:  # others may still share it
            assert again.warm
        order.append("one is let go")
    waiter.join(30)

    assert order == ["one is let go", "two is in"]
    assert held.attached.closed


def test_who_waits_long_for_room_goes_before_those_who_come_later_for_a_model_in_memory(yard: Yard) -> None:
    models, (one, two, _) = yard.models(1, fair_after=0.2), yard.sources
    order: list[str] = []

    def want(source: Source) -> None:
        with models.hold(source):
            order.append(source.folder.name)

    with models.hold(one):
        early = threading.Thread(target=want, args=[two])
        early.start()
        time.sleep(0.5)
        late = threading.Thread(target=want, args=[one])
        late.start()
        time.sleep(0.3)
    early.join(30)
    late.join(30)

    assert order == ["two", "one"]


def test_many_threads_and_too_little_room_never_meet_a_model_that_left(yard: Yard) -> None:
    models = yard.models(2)

    def work(seed: int) -> int:
        chosen = random.Random(seed)
        for _ in range(8):
            with models.hold(chosen.choice(yard.sources)) as held:
                assert not held.attached.closed
                time.sleep(chosen.random() / 50)
                assert not held.attached.closed
                assert models.bytes <= 2 * held.loaded.bytes
        return seed

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [0, 1, 2, 3]


def test_who_waits_for_room_can_be_called_off(yard: Yard) -> None:
    models, (one, two, _) = yard.models(1), yard.sources
    looks: list[None] = []

    def check() -> None:
        looks.append(None)
        if len(looks) == 3:
            raise Cancelled

    with models.hold(one) as held, pytest.raises(Cancelled), models.hold(two, check):
        pass

    assert (len(looks), yard.loads, held.attached.closed) == (3, ["one"], False)
    with models.hold(two) as other:
        assert not other.warm


def test_a_model_too_large_for_the_room_is_loaded_when_it_is_alone(yard: Yard) -> None:
    models, (one, two, _) = yard.models(0.5), yard.sources

    with models.hold(one) as first:
        assert not first.attached.closed
    with models.hold(two) as second:
        assert first.attached.closed
        assert not second.attached.closed


def test_models_that_fit_side_by_side_are_held_side_by_side(yard: Yard) -> None:
    models = yard.models(3)

    with ExitStack() as stack:
        helds = [stack.enter_context(models.hold(source)) for source in yard.sources]

        assert not any(held.attached.closed for held in helds)
    assert models.bytes == sum(held.loaded.bytes for held in helds)


def test_a_model_that_failed_to_load_is_tried_again(yard: Yard) -> None:
    models, late = yard.models(3), yard.folders[0].with_name("late")
    with pytest.raises(InvalidInput, match="late: there is no such folder"), models.hold(Source(late)):
        pass

    shutil.copytree(yard.folders[0], late)

    with models.hold(Source(late)) as held:
        assert not held.warm


def test_a_model_that_is_refused_is_read_once_for_all_who_wait_for_it(yard: Yard) -> None:
    weights = yard.folders[0] / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.language_model.norm.weight"][0] = math.nan
    save_file(tensors, weights, {"format": "pt"})
    wanted: set[int] = set()

    def load(source: Source, _: LoadedModel | None) -> LoadedModel:
        until(lambda: len(wanted) == 4)
        return yard.load(source)

    models = WarmModels(10**12, load, lambda _: Bell())

    def hold(_: int) -> str:
        with (
            pytest.raises(InvalidInput) as refusal,
            models.hold(yard.sources[0], lambda: wanted.add(threading.get_ident())),
        ):
            pass
        return str(refusal.value)

    with ThreadPoolExecutor(4) as pool:
        said = set(pool.map(hold, range(4)))

    assert (len(said), yard.loads) == (1, ["one"])
    assert "norm.weight holds NaN" in said.pop()


def test_a_model_whose_attachment_cannot_be_made_leaves_nothing_behind(yard: Yard) -> None:
    def refuse(_: LoadedModel) -> Bell:
        raise InvalidInput("no engine for it")

    models = WarmModels(10**12, yard.load, refuse)

    for _ in range(2):
        with pytest.raises(InvalidInput, match="no engine"), models.hold(yard.sources[0]):
            pass
    assert (models.bytes, yard.loads) == (0, ["one", "one"])


def test_unloading_leaves_only_what_is_held(yard: Yard) -> None:
    models, (one, two, _) = yard.models(3), yard.sources

    with models.hold(one) as held:
        with models.hold(two) as idle:
            pass
        models.unload()

        assert (held.attached.closed, idle.attached.closed) == (False, True)
        assert models.bytes == held.loaded.bytes


def test_memory_goes_back_to_the_system_when_a_model_leaves(tmp_path: Path) -> None:
    build_untrained(tmp_path / "large", seed=1, shape=Shape(layers=12, hidden=512, vision_layers=2, deepstack=(0,)))
    models = WarmModels(0, lambda source, _: load_model(source.folder), lambda _: Bell())
    with models.hold(Source(tmp_path / "large")):
        pass
    models.unload()  # and with it, what making the model left behind
    before = _resident()

    with models.hold(Source(tmp_path / "large")) as held:
        size = held.loaded.bytes
        with torch.inference_mode():
            held.loaded.model(input_ids=torch.arange(64)[None])  # every weight is read, and so in memory
        while_held = _resident()
        model = weakref.ref(held.loaded.model)
    del held
    models.unload()

    assert size > 100 * MIB
    assert while_held - before > 0.9 * size
    assert while_held - _resident() > 0.8 * size
    assert model() is None


def _resident() -> int:
    count: int = psutil.Process().memory_info().rss
    return count
