import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.qwen.adapted import KINDS, WORDS, make_adapter, manifest, said_by
from vlyard.demo.shapes import draw_scenes
from vlyard.errors import InvalidInput
from vlyard.jobs.conversion import DEFAULT_PROMPT
from workers.qwen.engine import Engine, Limits
from workers.qwen.loading import DEMO_FOLDER, LoadedModel, Model, load_model, memory_needed_beside
from workers.qwen.manifest import write_manifest
from workers.qwen.request import Request, Turn
from workers.qwen.sampling import Sampling
from workers.qwen.sharing import bytes_beside, put_on

LIMITS = Limits(batch_tokens=4096, batch_rows=4, wait_seconds=0, feature_bytes=2**24)


@pytest.fixture(scope="module")
def base(untrained: Path) -> LoadedModel:
    return load_model(untrained)


@pytest.fixture
def unchanged(base: LoadedModel) -> Iterator[None]:
    """The base is the same after the test, to the last bit."""
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    said = said_by(base.model)
    yield
    after = base.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(said_by(base.model), said)
    assert all(parameter.requires_grad for parameter in base.model.parameters())


def addresses(model: Model) -> set[int]:
    return {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}


def own_bytes(model: Model, base: Model) -> int:
    own = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    return sum(size for address, size in own.items() if address not in addresses(base))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("settings", [*KINDS, *WORDS], ids=str)
def test_a_model_on_a_shared_base_says_what_pefts_own_and_a_merged_one_say(
    untrained: Path, base: LoadedModel, tmp_path: Path, settings: dict[str, Any]
) -> None:
    expected = make_adapter(untrained, tmp_path / "mine", **settings)

    shared = put_on(base, tmp_path / "mine")

    merged = load_model(untrained, tmp_path / "mine")
    torch.testing.assert_close(said_by(shared.model), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(said_by(shared.model), said_by(merged.model), atol=1e-4, rtol=1e-4)
    assert (said_by(base.model) - expected).abs().max() > 0.01
    assert type(shared.model) is type(base.model)
    assert (shared.name, shared.notes) == (merged.name, merged.notes)
    own = own_bytes(shared.model, base.model)
    assert own == shared.bytes - shared.shared_bytes < base.bytes / 2
    assert bytes_beside(base, tmp_path / "mine") == memory_needed_beside(untrained, tmp_path / "mine") == own


@pytest.mark.usefixtures("unchanged")
def test_an_adapter_of_the_language_model_takes_its_matrices_alone(
    untrained: Path, base: LoadedModel, tmp_path: Path
) -> None:
    make_adapter(untrained, tmp_path / "mine")

    shared = put_on(base, tmp_path / "mine")

    assert addresses(base.model) < addresses(shared.model)
    matrices = load_file(tmp_path / "mine" / "adapter_model.safetensors").values()
    assert shared.bytes - base.bytes == sum(matrix.nbytes for matrix in matrices)


@pytest.mark.usefixtures("unchanged")
def test_where_an_adapter_changes_what_sees_only_those_tensors_are_new(
    untrained: Path, base: LoadedModel, tmp_path: Path
) -> None:
    make_adapter(untrained, tmp_path / "mine", target_modules=r".*(visual\..*qkv|language_model\..*q_proj)")

    shared = put_on(base, tmp_path / "mine")

    ours = shared.model.state_dict()
    new = {name for name, tensor in ours.items() if tensor.data_ptr() not in addresses(base.model)}
    assert {name for name in new if "visual" in name} == {
        name for name in base.model.state_dict() if name.endswith("qkv.weight")
    }
    assert {name.rpartition(".")[2] for name in new if "visual" not in name} == {"down", "up"}


@pytest.mark.usefixtures("unchanged")
def test_a_whole_tensor_that_nothing_announces_changes_the_adapters_model_alone(
    untrained: Path, base: LoadedModel, tmp_path: Path
) -> None:
    make_adapter(untrained, tmp_path / "mine")
    weights = tmp_path / "mine" / "adapter_model.safetensors"
    whole = torch.full_like(base.model.model.language_model.norm.weight, 0.5).detach()
    save_file(load_file(weights) | {"base_model.model.model.language_model.norm.weight": whole}, weights)

    shared = put_on(base, tmp_path / "mine")

    assert torch.equal(shared.model.model.language_model.norm.weight, whole)


@pytest.mark.usefixtures("unchanged")
def test_two_adapters_on_one_base_do_not_meet(untrained: Path, base: LoadedModel, tmp_path: Path) -> None:
    expected = [make_adapter(untrained, tmp_path / f"{rank}", r=rank) for rank in (2, 4)]

    shared = [put_on(base, tmp_path / f"{rank}") for rank in (2, 4)]

    for each, said in zip(shared, expected, strict=True):
        torch.testing.assert_close(said_by(each.model), said, atol=1e-4, rtol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 0.01


def test_base_and_adapter_answer_as_they_would_alone_while_both_are_asked(tmp_path: Path) -> None:
    make_adapter(DEMO_FOLDER, tmp_path / "mine", r=1)
    base = load_model(DEMO_FOLDER)
    scene = next(draw_scenes(12))
    request = Request((Turn("user", (scene.picture, DEFAULT_PROMPT)),), Sampling(64, do_sample=False))

    def asked(*models: LoadedModel) -> list[str]:
        with ExitStack() as stack:
            engines = [stack.enter_context(closing(Engine(model, LIMITS))) for model in models]
            threads = stack.enter_context(ThreadPoolExecutor(4))
            return list(threads.map(lambda engine: engine.ask(request).text, engines * 2))

    plain, adapted, plain_again, adapted_again = asked(base, put_on(base, tmp_path / "mine"))

    assert {plain, plain_again} == set(asked(load_model(DEMO_FOLDER)))
    assert {adapted, adapted_again} == set(asked(load_model(DEMO_FOLDER, tmp_path / "mine")))
    assert plain != adapted


# --- manifests ------------------------------------------------------------------------------------------------

TEMPLATE = "{% for message in messages %}{{ message.role }}!{% endfor %}"


def test_an_adapters_manifest_changes_its_own_processor_and_not_the_bases(
    untrained: Path, base: LoadedModel, tmp_path: Path
) -> None:
    make_adapter(untrained, tmp_path / "mine")
    told = manifest(min_pixels=1024, max_pixels=9216, chat_template=TEMPLATE, system="Be brief.")
    write_manifest(tmp_path / "mine", told)
    before = (base.processor.image_processor.size, base.processor.chat_template)

    for tuned in (put_on(base, tmp_path / "mine"), load_model(untrained, tmp_path / "mine")):
        size = tuned.processor.image_processor.size
        assert (size["shortest_edge"], size["longest_edge"]) == (1024, 9216)
        assert (tuned.processor.chat_template, tuned.system) == (TEMPLATE, "Be brief.")
    assert (base.processor.image_processor.size, base.processor.chat_template) == before
    assert base.system is None


def test_a_tuned_checkpoint_is_asked_as_its_manifest_says_and_an_adapter_on_it_as_its_own(
    untrained: Path, tmp_path: Path
) -> None:
    tuned = Path(shutil.copytree(untrained, tmp_path / "tuned"))
    write_manifest(tuned, manifest(chat_template=TEMPLATE, system="Be brief.", max_pixels=9216))
    make_adapter(untrained, tmp_path / "mine")
    plain = load_model(tuned)
    without = put_on(plain, tmp_path / "mine")
    write_manifest(tmp_path / "mine", manifest(max_pixels=8192))

    further = put_on(plain, tmp_path / "mine")

    for each in (plain, without):
        assert (each.processor.chat_template, each.system) == (TEMPLATE, "Be brief.")
        assert each.processor.image_processor.size["longest_edge"] == 9216
    assert (further.processor.chat_template, further.system) == (TEMPLATE, None)
    assert further.processor.image_processor.size["longest_edge"] == 8192


def test_a_manifest_that_cannot_be_read_is_refused_by_its_name(
    untrained: Path, base: LoadedModel, tmp_path: Path
) -> None:
    make_adapter(untrained, tmp_path / "mine")
    (tmp_path / "mine" / "vlyard.json").write_text("{}")

    with pytest.raises(InvalidInput, match=r"mine/vlyard\.json: .* of its fields cannot be read"):
        put_on(base, tmp_path / "mine")
