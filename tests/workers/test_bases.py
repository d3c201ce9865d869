import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.qwen.adapted import manifest
from tests.workers.hubs import COMMIT, REPOSITORY, StandIn, serving
from tests.workers.shelves import Bench
from vlyard.errors import InvalidInput
from vlyard.files import Stored
from workers.qwen.loading import DEMO_FOLDER
from workers.qwen.manifest import write_manifest


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def marked(bench: Bench, name: str, **told: Any) -> Stored:
    """The demo's weights as a tuned model of their own, with its manifest beside them."""
    folder = Path(shutil.copytree(DEMO_FOLDER, bench.folder / name))
    write_manifest(folder, manifest(**told))
    return bench.shelf.tree(folder)


def test_an_adapter_is_put_on_its_base_without_a_word_by_whichever_name_the_base_is_called(bench: Bench) -> None:
    base, again = (bench.shelf.tree(DEMO_FOLDER) for _ in range(2))
    on_demo, on_id, on_version, silent = map(bench.tuned, ("demo", str(base.id).upper(), "acme/shapes:1", None))
    cases: list[tuple[Stored, UUID | str]] = [
        (on_demo, "demo"),
        (on_id, base.id),
        (on_id, "acme/shapes:1"),
        (on_id, again.id),
        (on_version, base.id),
        (on_version, "acme/shapes:1"),
        (silent, "demo"),
    ]

    for adapter, model in cases:
        named = {"acme/shapes:1": base.id}
        assert bench.found(model, base, again, adapter, adapter=adapter.id, named=named).notes == (), model


def test_an_adapter_on_what_may_be_a_copy_of_its_base_is_noted(bench: Bench) -> None:
    copy = Path(shutil.copytree(DEMO_FOLDER, bench.folder / "models" / "copy"))
    base, gone = bench.shelf.tree(copy), uuid4()
    tuned_copy = marked(bench, "tuned", base="copy", method="full")
    cases: list[tuple[str, UUID | str, Stored | None]] = [
        ("demo", base.id, base),  # imported
        ("demo", "copy", None),
        (str(gone), base.id, base),  # exported
        ("acme/shapes:1", base.id, base),
        ("copy", tuned_copy.id, tuned_copy),  # a folder's name may be another model's by now
    ]

    for named, model, brought in cases:
        adapter = bench.tuned(named)
        inputs = [adapter, *([brought] if brought else [])]
        source = bench.found(model, *inputs, adapter=adapter.id, models_dir=copy.parent)
        assert source.notes == (f"the adapter was tuned on {named}, and was put on {model}",)
        assert source == replace(source, notes=())


@pytest.mark.parametrize(
    "base",
    [
        f"hub:{REPOSITORY}@{'a' * 40}",
        f"hub:Somebody/Tiny-VL@{'a' * 40}",
        f"hub:Somebody/Another-VL@{'a' * 40}",
        f"hub:Acme/Tiny-VL-FP8@{'a' * 40}",
        f"hub:Acme/Renamed@{COMMIT}",
        "hub:acme/tiny-vl@v1",
    ],
)
def test_an_adapter_on_what_may_be_its_base_on_a_hub_is_put_there(bench: Bench, base: str) -> None:
    adapter = bench.tuned(base)

    with serving(StandIn(DEMO_FOLDER)) as hub:
        source = bench.found(f"hub:{REPOSITORY}", adapter, adapter=adapter.id, hub_endpoint=hub.url)

    assert source.notes == (f"the adapter was tuned on {base}, and was put on hub:{REPOSITORY}@{COMMIT}",)


def test_an_adapter_that_was_certainly_tuned_on_another_model_is_refused_and_both_are_named(bench: Bench) -> None:
    on_demo, on_nothing = bench.tuned("demo"), bench.tuned("untrained")
    on_other = bench.tuned(f"hub:Acme/Thinking-VL@{'a' * 40}")
    tuned = marked(bench, "tuned", base="demo", method="full")
    fix = r"\(give demo as `model`, or an adapter that was tuned on the model\)"

    with pytest.raises(InvalidInput, match=f"/spec/adapter: .* tuned on demo, and not on untrained {fix}"):
        bench.found("untrained", on_demo, adapter=on_demo.id)
    with pytest.raises(InvalidInput, match="/spec/adapter: the adapter was tuned on untrained, and not on demo"):
        bench.found("demo", on_nothing, adapter=on_nothing.id)
    with pytest.raises(InvalidInput, match=f"not on {tuned.id}, which was itself tuned on that {fix}"):
        bench.found(tuned.id, tuned, on_demo, adapter=on_demo.id)
    with (
        serving(StandIn(DEMO_FOLDER)) as hub,
        pytest.raises(InvalidInput, match=f"on hub:Acme/Thinking-VL@a+, and not on hub:{REPOSITORY}@{COMMIT}"),
    ):
        bench.found(f"hub:{REPOSITORY}", on_other, adapter=on_other.id, hub_endpoint=hub.url)


def test_an_adapter_that_is_merged_into_the_model_is_not_put_on_it_again(bench: Bench) -> None:
    adapter, merged = bench.tuned("mine"), marked(bench, "merged", base="mine")

    with pytest.raises(
        InvalidInput, match=f"/spec/adapter: the model {merged.id} has this adapter in it already .leave `adapter` out"
    ):
        bench.found(merged.id, merged, adapter, adapter=adapter.id)
