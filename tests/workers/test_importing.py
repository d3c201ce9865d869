"""Weights that come in: looked at as a whole, refused with everything that is wrong, stored once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from control.settings import Settings
from tests.workers.desks import Desk
from tests.workers.hubs import COMMIT, REPOSITORY, StandIn, serving
from vlyard.errors import InvalidInput, Unavailable
from vlyard.files import sha256_of
from vlyard.formats.archive import pack
from vlyard.jobs.importing import ImportResult, ImportSpec
from vlyard.jobs.kinds import KINDS
from workers.importing import bring_in, run
from workers.qwen.loading import DEMO_FOLDER, load_model
from workers.trees import fetch_tree

torch.set_num_threads(1)
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def mine(desk: Desk) -> Path:
    """A sound checkpoint in the operator's directory of models."""
    return Path(shutil.copytree(DEMO_FOLDER, desk.folder / "models" / "mine"))


def bring(desk: Desk, source: object, on: str | None = None, **settings: Any) -> tuple[ImportResult, Path]:
    """Import, from the hub `on` where it says which; returns the result, and a folder with what was stored."""
    spec = ImportSpec.model_validate({"source": source, "name": "mine", "hub": on})
    settings = {"models_dir": desk.folder / "models", "cache_dir": desk.folder / "cache", **settings}
    context = desk.context()
    result = bring_in(spec, context, Settings(**settings))
    (stored,) = context.published
    assert result.artefacts == {"model": stored.id}
    folder = desk.folder / "out" / str(stored.id)
    folder.parent.mkdir(exist_ok=True)
    fetch_tree(desk.store, stored, folder, lambda: None)
    return result, folder


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def in_shards(folder: Path) -> dict[str, str]:
    """Cut a checkpoint's weights into two files with an index; returns the index's map."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    shards = {"model-00001-of-00002.safetensors": list(tensors)[:40], "model-00002-of-00002.safetensors": []}
    shards["model-00002-of-00002.safetensors"] = list(tensors)[40:]
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / shard, {"format": "pt"})
    places = {name: shard for shard, held in shards.items() for name in held}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return places


def test_the_row_of_the_kind_names_this_handler() -> None:
    assert KINDS["import"].handler == f"{run.__module__}:{run.__name__}"


# --- what comes in --------------------------------------------------------------------------------------------


def test_a_folder_of_the_operators_is_stored_as_it_is_and_told_in_numbers(desk: Desk, mine: Path) -> None:
    result, folder = bring(desk, "mine")

    assert names(folder) == names(mine) == result.files.keys()
    assert result.files == {name: sha256_of(mine / name) for name in names(mine)}
    assert result.bytes == sum(path.stat().st_size for path in mine.iterdir())
    assert (result.base, result.dtype, result.parameters) == ("mine", "bf16", 1_107_392)
    assert result.architecture == "Qwen3VLForConditionalGeneration"
    assert load_model(folder).name == folder.name


def test_what_is_no_part_of_a_model_stays_outside_and_is_named_in_the_log(
    desk: Desk, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mine / "assets").mkdir()
    (mine / "assets" / "picture.png").touch()
    (mine / "notes.txt").touch()

    _, folder = bring(desk, "mine")

    assert names(folder) == names(DEMO_FOLDER)
    assert "left out: assets/picture.png, notes.txt" in capsys.readouterr().out


def test_weights_in_several_files_come_in_with_their_index(desk: Desk, mine: Path) -> None:
    in_shards(mine)

    result, folder = bring(desk, "mine")

    assert names(folder) == names(mine)
    assert result.parameters == 1_107_392


@pytest.mark.parametrize("packed", [False, True])
def test_an_artefact_comes_in_as_a_directory_and_as_an_archive(desk: Desk, mine: Path, packed: bool) -> None:
    if packed:
        pack(mine, desk.folder / "mine.zip")
    source = desk.lay_down(desk.folder / "mine.zip" if packed else mine, "mine.zip" if packed else "mine")

    result, folder = bring(desk, source)

    assert names(folder) == names(mine)
    assert result.base == str(source)


def test_weights_of_two_types_are_told_as_mixed(desk: Desk, mine: Path) -> None:
    tensors = load_file(mine / WEIGHTS)
    tensors["model.visual.pos_embed.weight"] = tensors["model.visual.pos_embed.weight"].float()
    save_file(tensors, mine / WEIGHTS, {"format": "pt"})

    assert bring(desk, "mine")[0].dtype == "mixed"


# --- hubs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_a_hubs_model_comes_in_with_the_revision_that_it_was(desk: Desk, kind: str) -> None:
    with serving(StandIn(DEMO_FOLDER)) as hub:
        result, folder = bring(desk, f"hub:{REPOSITORY}", hub=kind, hub_endpoint=hub.url)

    assert result.base == f"hub:{REPOSITORY}@{COMMIT}"
    assert names(folder) == result.files.keys() == names(DEMO_FOLDER) - {"README.md"}


def test_the_other_hub_has_its_own_mirror_and_never_hears_the_first_ones_token(desk: Desk) -> None:
    with serving(StandIn(DEMO_FOLDER, token="of-the-other")) as other:
        first = {"hub_endpoint": "http://127.0.0.1:9", "hub_token": "of-the-first"}
        with pytest.raises(InvalidInput, match="needs a token in VLYARD_OTHER_HUB_TOKEN"):
            bring(desk, f"hub:{REPOSITORY}", on="modelscope", other_hub_endpoint=other.url, **first)

        result, _ = bring(
            desk,
            f"hub:{REPOSITORY}",
            on="modelscope",
            other_hub_endpoint=other.url,
            other_hub_token="of-the-other",
            **first,
        )

    assert result.base == f"hub:{REPOSITORY}@{COMMIT}"


def test_an_import_asks_the_hub_anew_and_brings_nothing_old_while_it_is_away(desk: Desk) -> None:
    with serving(StandIn(DEMO_FOLDER)) as hub:
        bring(desk, f"hub:{REPOSITORY}", hub_endpoint=hub.url)

    with pytest.raises(Unavailable, match="cannot be reached"):
        bring(desk, f"hub:{REPOSITORY}", hub_endpoint=hub.url)


def test_a_hub_for_what_is_on_none_and_a_version_that_is_here_already_are_refused(desk: Desk, mine: Path) -> None:
    with pytest.raises(ValidationError, match="mine is not on a hub: leave hub out"):
        bring(desk, "mine", on="modelscope")
    with pytest.raises(InvalidInput, match="/spec/source: vision/mine:1 is a version of a model here already"):
        bring(desk, "vision/mine:1")
    with pytest.raises(InvalidInput, match=r"/spec/source: this worker has no model 'yours' \(it has demo, .*mine;"):
        bring(desk, "yours")


# --- what is refused ------------------------------------------------------------------------------------------


def drop(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def put(name: str, content: str = "x") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def with_config(name: str = "config.json", **values: object) -> Callable[[Path], object]:
    return lambda folder: change(folder / name, **values)


def with_tensors(make: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        make(tensors)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return damage


def cut_off(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-1])


def with_shards(damage: Callable[[Path, dict[str, str]], object]) -> Callable[[Path], object]:
    return lambda folder: damage(folder, in_shards(folder))


def swap(folder: Path, places: dict[str, str]) -> None:
    first = next(iter(places))
    content = {"weight_map": places | {first: "model-00002-of-00002.safetensors", "lm_head.bias": places[first]}}
    (folder / INDEX).write_text(json.dumps(content))


NORM = "model.language_model.norm.weight"
UNSOUND = {
    "a pickle": (put("training_args.bin"), [r"mine/training_args\.bin: .* may be a pickle"]),
    "code": (put("modeling_mine.py"), [r"mine/modeling_mine\.py: it is code, and no code of a model is run"]),
    "a configuration that asks for code": (
        with_config(auto_map={"AutoModel": "x--y.Z"}),
        [r"mine/config\.json: /auto_map asks for code that comes with the model"],
    ),
    "a part of one that asks for code": (
        with_config("processor_config.json", image_processor={"auto_map": {"AutoImageProcessor": "x.Y"}}),
        [r"mine/processor_config\.json: /image_processor/auto_map asks for code"],
    ),
    "another model": (with_config(model_type="llama"), ["the model_type is 'llama', not 'qwen3_vl'"]),
    "no configuration": (drop("config.json"), [r"mine: it has no config\.json"]),
    "another head": (with_config(architectures=["Qwen3VLModel"]), ["the architecture is Qwen3VLModel, not"]),
    "quantised weights": (with_config(quantization_config={"bits": 4}), ["the weights are quantised"]),
    "far too many layers": (
        with_config(text_config={"num_hidden_layers": 10**9}),
        ["1000000003 layers, and there are 92 tensors"],
    ),
    "no tokenizer": (drop("tokenizer.json"), [r"mine: it has no tokenizer\.json and no vocab\.json with merges"]),
    "no processor": (drop("processor_config.json"), [r"it has no processor_config\.json and no preprocessor_config"]),
    "no template": (drop("chat_template.jinja"), ["it has no chat template"]),
    "a damaged tokenizer": (put("tokenizer.json", "{}"), ["its processor cannot be read"]),
    "no weights": (drop(WEIGHTS), [r"it has no model\.safetensors"]),
    "a file that ends too early": (cut_off, [r"mine/model\.safetensors: it is damaged"]),
    "a tensor too few": (with_tensors(lambda held: held.pop(NORM)), [f"the weights lack 1 tensor: {NORM}"]),
    "a tensor too many": (
        with_tensors(lambda held: held.update(extra=torch.zeros(2))),
        ["the model has no place for 1 tensor: extra"],
    ),
    "another shape": (
        with_tensors(lambda held: held.update({NORM: torch.zeros(64, dtype=torch.bfloat16)})),
        [rf"mine/model\.safetensors: the tensor {NORM} has the shape 64, and the model has 128"],
    ),
    "another type": (
        with_tensors(lambda held: held.update({NORM: torch.zeros(128, dtype=torch.int8)})),
        [rf"1 tensor: {NORM} in I8 \(save the weights as one of bf16, fp16, fp32\)"],
    ),
    "a missing shard": (
        with_shards(lambda folder, _: (folder / "model-00002-of-00002.safetensors").unlink()),
        ["there is no file 'model-00002-of-00002.safetensors'"],
    ),
    "an index of something else": (
        with_shards(swap),
        [r"index\.json: 1 tensor: lm_head\.bias are not in", "1 tensor: .* are in another file than it says"],
    ),
    "an image token that is another word": (with_config(image_token_id=7), ["the image token is 1010 .*, and 7 for"]),
    "a manifest of something else": (put("vlyard.json", "{}"), [r"mine/vlyard\.json: \d+ of its fields cannot"]),
    "an adapter": (
        lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"),
        [r"mine: it is an adapter alone \(import its base, or what an export made of both\)"],
    ),
    "many things at once": (
        lambda folder: [make(folder) for make in (put("a.pt"), drop("tokenizer.json"), cut_off)],
        [r"mine/a\.pt: .* a pickle", r"no tokenizer\.json", "it is damaged"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", UNSOUND)
def test_an_unsound_checkpoint_is_refused_with_all_that_is_wrong_with_it(desk: Desk, mine: Path, damage: str) -> None:
    make, expected = UNSOUND[damage]
    make(mine)

    with pytest.raises(InvalidInput, match="The model cannot be imported") as refused:
        bring(desk, "mine")

    assert len(refused.value.complaints) == len(expected)
    for words in expected:
        assert refused.match(words)
    assert not (desk.folder / "store").exists()


def test_a_checkpoint_with_a_list_of_sums_is_compared_with_it(desk: Desk, mine: Path) -> None:
    lines = [f"{sha256_of(path)}  {path.name}" for path in sorted(mine.iterdir())]
    sums = mine / "SHA256SUMS"
    sums.write_text("\n".join(lines))
    assert "SHA256SUMS" in bring(desk, "mine")[0].files

    change(mine / "generation_config.json", temperature=0.1)
    sums.write_text("\n".join([*lines, f"{'0' * 64}  model-9.safetensors", "nothing"]))

    with pytest.raises(InvalidInput) as refused:
        bring(desk, "mine")
    assert [str(each).partition(" (")[0] for each in refused.value.complaints] == [
        "mine/generation_config.json: it is not what SHA256SUMS says",
        f"mine/SHA256SUMS:{len(lines) + 1}: there is no file model-9.safetensors",
        f"mine/SHA256SUMS:{len(lines) + 2}: it is no SHA-256 with a name",
    ]


def test_a_hubs_model_that_asks_for_code_is_refused_though_its_code_was_never_fetched(desk: Desk) -> None:
    repository = Path(shutil.copytree(DEMO_FOLDER, desk.folder / "repository"))
    change(repository / "config.json", auto_map={"AutoModel": "modeling_mine.Model"})
    (repository / "modeling_mine.py").write_text("raise SystemExit")

    with serving(StandIn(repository)) as hub, pytest.raises(InvalidInput, match="/auto_map asks for code"):
        bring(desk, f"hub:{REPOSITORY}", hub_endpoint=hub.url)

    assert "modeling_mine.py" not in {name for name, _ in hub.asked}
