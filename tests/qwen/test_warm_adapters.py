import math
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.qwen.adapted import make_adapter, said_by
from tests.qwen.yards import Yard, lay_out
from vlyard.errors import Cancelled, InvalidInput
from workers.qwen.demo.architecture import Shape, build_untrained
from workers.qwen.warm import Source


@pytest.fixture
def yard(untrained: Path, tmp_path: Path) -> Yard:
    return lay_out(untrained, tmp_path)


def ruin_unnoticed(path: Path) -> None:
    """Another file is in its place, of its size and times, and with nothing in it."""
    before, other = path.stat(), path.with_name("other")
    other.write_bytes(bytes(before.st_size))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def test_an_adapter_is_put_on_a_base_in_memory_of_which_nothing_is_read_again(yard: Yard) -> None:
    models, one = yard.models(3), yard.sources[0]
    mine, other = yard.adapter("mine"), yard.adapter("other", r=2)
    with models.hold(one) as base:
        pass
    for name in ("model.safetensors", "config.json"):
        ruin_unnoticed(one.folder / name)

    spent = time.process_time()
    with models.hold(mine) as held, models.hold(other) as second:
        spent = time.process_time() - spent
        assert (said_by(held.loaded.model) - said_by(second.loaded.model)).abs().max() > 0.01
        assert models.bytes == base.loaded.bytes + sum(each.loaded.bytes - base.loaded.bytes for each in (held, second))
    with models.hold(mine) as again, models.hold(one) as still:
        pass

    assert yard.loads == ["one", "mine", "other"]
    assert (held.warm, again.warm, still.warm) == (False, True, True)
    assert spent < 1
    assert len({id(each.attached) for each in (base, held, second)}) == 3


def test_what_may_be_kept_with_each_model_is_counted_also_for_those_that_share_a_base(yard: Yard) -> None:
    models, one = yard.models(3.4, beside=0.5), yard.sources[0]
    adapters = [yard.adapter(name, r=1) for name in ("first", "second", "third", "fourth")]

    attached = []
    for adapter in adapters:
        with models.hold(adapter) as held:
            attached.append(held.attached)
    with models.hold(one) as base:
        pass

    # 1.5 of the base, and a little more than 0.5 of each adapter.
    assert [bell.closed for bell in attached] == [True, False, False, False]
    assert base.warm
    assert models.bytes < 1.4 * base.loaded.bytes


def test_what_may_be_kept_with_a_model_that_is_held_leaves_less_room_for_others(yard: Yard) -> None:
    models, (one, two, _) = yard.models(2.9, beside=0.5), yard.sources
    looks: list[None] = []

    def check() -> None:
        looks.append(None)
        if len(looks) == 3:
            raise Cancelled

    with models.hold(one), pytest.raises(Cancelled), models.hold(two, check):
        pass

    assert yard.loads == ["one"]


def test_where_the_base_is_not_there_it_is_loaded_for_the_adapter_and_stays(yard: Yard) -> None:
    models, one = yard.models(3), yard.sources[0]
    mine = yard.adapter("mine")

    with models.hold(mine) as held, models.hold(one) as base:
        assert (held.warm, base.warm) == (False, True)

    assert yard.loads == ["one", "mine"]
    assert held.loaded.shared_bytes == base.loaded.bytes


def test_a_base_stays_while_a_model_that_shares_it_is_held_and_goes_after_it(yard: Yard) -> None:
    models, (one, two, three) = yard.models(2.1), yard.sources
    mine = yard.adapter("mine")

    with models.hold(mine) as held:
        for source in (two, three):
            with models.hold(source):
                pass
        with models.hold(one) as base:
            pass
        assert (base.warm, base.attached.closed, held.attached.closed) == (True, False, False)
    with models.hold(three), models.hold(two):
        assert (held.attached.closed, base.attached.closed) == (True, True)

    assert yard.loads == ["one", "mine", "two", "three", "two"]


def test_of_a_base_and_what_shares_it_the_base_leaves_last(yard: Yard) -> None:
    models, (one, two, _) = yard.models(2.02), yard.sources
    mine = yard.adapter("mine", target_modules="all-linear")  # a third of the base's size, where it is merged
    with models.hold(one) as base:
        pass
    with models.hold(mine) as held:
        pass

    with models.hold(two):
        assert (held.attached.closed, base.attached.closed) == (True, False)


def test_a_base_and_its_adapter_that_are_too_large_for_the_room_are_loaded_when_they_are_alone(yard: Yard) -> None:
    models, mine = yard.models(0.5), yard.adapter("mine")

    with models.hold(mine) as held, models.hold(yard.sources[0]) as base:
        assert (held.attached.closed, base.warm) == (False, True)


def test_an_adapter_that_does_not_fit_is_refused_before_its_base_is_read(yard: Yard) -> None:
    models, wide = yard.models(3), yard.folders[0].with_name("wide")
    build_untrained(wide, 1, Shape(1, 256, 2, 64, (0,)))
    make_adapter(wide, wide.with_name("for-wide"))

    with (
        pytest.raises(InvalidInput, match="it is for another base model"),
        models.hold(Source(yard.folders[0], wide.with_name("for-wide"))),
    ):
        pass
    with models.hold(yard.sources[0]) as base:
        assert not base.warm
    with (
        pytest.raises(InvalidInput, match="it is for another base model"),
        models.hold(Source(yard.folders[0], wide.with_name("for-wide"))),
    ):
        pass

    assert yard.loads == ["one"]
    models.unload()
    assert base.attached.closed


def test_a_base_is_let_go_of_when_its_adapter_cannot_be_put_on(yard: Yard) -> None:
    models, mine = yard.models(3), yard.adapter("mine")
    assert mine.adapter is not None
    weights = mine.adapter / "adapter_model.safetensors"
    save_file({name: tensor * math.nan for name, tensor in load_file(weights).items()}, weights)

    for _ in range(2):
        with pytest.raises(InvalidInput, match="holds NaN"), models.hold(mine):
            pass
    with models.hold(yard.sources[0]) as base:
        assert base.warm
    models.unload()

    assert (base.attached.closed, models.bytes) == (True, 0)


def test_a_base_over_several_gpus_is_not_shared_and_the_model_says_so(yard: Yard) -> None:
    models, mine = yard.models(3), yard.adapter("mine")

    with models.hold(Source(mine.folder, mine.adapter, gpus=2)) as held:
        pass

    assert yard.loads == ["mine"]
    assert held.loaded.shared_bytes == 0
    assert "one on several GPUs cannot be shared" in held.loaded.notes[0]


def test_many_threads_adapters_and_too_little_room_never_meet_a_model_that_left(yard: Yard) -> None:
    models = yard.models(2.05)
    adapters = [yard.adapter(f"{of}-{rank}", of, r=rank) for of in (0, 1) for rank in (1, 2)]

    def work(seed: int) -> int:
        chosen = random.Random(seed)
        for _ in range(8):
            with models.hold(chosen.choice([*yard.sources, *adapters])) as held:
                assert not held.attached.closed
                time.sleep(chosen.random() / 50)
                assert not held.attached.closed
        return seed

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [0, 1, 2, 3]
    models.unload()
    assert models.bytes == 0
