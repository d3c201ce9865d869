import json
import shutil
import zipfile
from pathlib import Path
from uuid import uuid4

import pytest
import torch
from safetensors.torch import load_file

from tests.workers.hubs import COMMIT, REPOSITORY, StandIn, serving
from tests.workers.shelves import Bench
from vlyard.errors import InvalidInput, RefusedArchive, Unavailable
from workers.models import whole
from workers.qwen.loading import DEMO_FOLDER
from workers.qwen.manifest import read_manifest
from workers.qwen.warm import Source


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# --- names ----------------------------------------------------------------------------------------------------


def test_the_demo_and_the_operators_models_are_found_by_their_names(bench: Bench) -> None:
    mine = bench.folder / "models" / "mine-v1.2"
    shutil.copytree(DEMO_FOLDER, mine)

    assert bench.found("demo") == Source(DEMO_FOLDER)
    assert bench.found("mine-v1.2", models_dir=mine.parent) == Source(mine)


@pytest.mark.parametrize("name", ["yours", "..", ".", ".hidden", "mine/config", "/etc", "", "readme.txt"])
def test_a_name_that_there_is_not_is_refused_with_those_that_there_are(bench: Bench, name: str) -> None:
    models = bench.folder / "models"
    for folder in ("mine", "other", ".hidden"):
        (models / folder).mkdir(parents=True)
    (models / "readme.txt").touch()

    with pytest.raises(
        InvalidInput, match=r"/spec/model: this worker has no model .* \(it has demo, untrained, mine, other; hub:"
    ):
        bench.found(name, models_dir=models)


def test_the_untrained_model_is_made_once_and_always_the_same(bench: Bench) -> None:
    weights = bench.found("untrained").folder / "model.safetensors"
    first, made = load_file(weights), weights.stat().st_mtime_ns
    again = bench.found("untrained").folder / "model.safetensors"
    assert (again, again.stat().st_mtime_ns) == (weights, made)

    shutil.rmtree(bench.folder / "cache")
    anew = load_file(bench.found("untrained").folder / "model.safetensors")

    assert first.keys() == anew.keys() == load_file(DEMO_FOLDER / "model.safetensors").keys()
    assert all(torch.equal(first[name], anew[name]) for name in first)


# --- artefacts ------------------------------------------------------------------------------------------------


def test_a_model_in_a_tree_is_fetched_once_for_all_jobs(bench: Bench) -> None:
    tree = bench.shelf.tree(DEMO_FOLDER)

    first = bench.found(tree.id, tree)
    fetched = len(bench.shelf.fetched)
    again = bench.found(str(tree.id), tree)

    assert first == again
    assert (first.folder / "model.safetensors").read_bytes() == (DEMO_FOLDER / "model.safetensors").read_bytes()
    assert first.folder.name == "demo_model"
    assert len(bench.shelf.fetched) == fetched > 5


@pytest.mark.parametrize("around", ["", "run-7/checkpoint-200"])
def test_a_model_in_an_archive_is_found_also_where_its_folder_was_packed(bench: Bench, around: str) -> None:
    shutil.copytree(DEMO_FOLDER, bench.folder / "packed" / around)
    archive = bench.shelf.archive(bench.folder / "packed", "run 7 (best).zip")

    source = bench.found(archive.id, archive)

    assert source.folder.name == (Path(around).name or "run_7__best_.zip")
    assert not list((bench.folder / "cache").rglob("*.archive"))


def test_the_same_content_under_another_id_is_not_fetched_again(bench: Bench) -> None:
    one, two = (bench.shelf.tree(DEMO_FOLDER) for _ in range(2))
    bench.found(one.id, one)
    bench.shelf.fetched.clear()

    assert bench.found(two.id, two).folder.is_dir()
    assert (one.id != two.id, bench.shelf.fetched) == (True, [])


def test_what_is_in_the_cache_is_still_not_for_a_job_that_does_not_name_it(bench: Bench) -> None:
    tree = bench.shelf.tree(DEMO_FOLDER)
    bench.found(tree.id, tree)

    with pytest.raises(InvalidInput, match=f"/spec/model: the job names no artefact {tree.id}"):
        bench.found(tree.id)
    with pytest.raises(InvalidInput, match=f"/spec/adapter: the job names no artefact {tree.id}"):
        bench.found("demo", adapter=tree.id)


def test_an_adapter_is_an_artefact_beside_the_model(bench: Bench) -> None:
    (bench.folder / "adapter").mkdir()
    (bench.folder / "adapter" / "adapter_config.json").write_text("{}")
    archive = bench.shelf.archive(bench.folder / "adapter", "lora.zip")

    source = bench.found("demo", archive, adapter=archive.id)

    assert source.folder == DEMO_FOLDER
    assert source.adapter is not None
    assert [path.name for path in source.adapter.iterdir()] == ["adapter_config.json"]


def test_a_file_that_is_no_archive_is_refused_and_leaves_nothing(bench: Bench) -> None:
    weights = bench.shelf.file(DEMO_FOLDER / "model.safetensors", "model.safetensors")

    with pytest.raises(RefusedArchive, match=r"This is no archive\.; .* neither a zip nor a tar"):
        bench.found(weights.id, weights)

    assert not [path for path in (bench.folder / "cache" / "models").iterdir() if path.is_dir()]


def test_an_archive_that_leads_out_of_its_folder_is_refused(bench: Bench) -> None:
    path = bench.folder / "evil.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("../../config.json", "{}")
    archive = bench.shelf.file(path, "evil.zip")

    with pytest.raises(RefusedArchive, match="its path leads upwards"):
        bench.found(archive.id, archive)


# --- tuned models ---------------------------------------------------------------------------------------------


def test_an_adapter_that_is_given_as_the_model_brings_the_base_that_its_manifest_names(bench: Bench) -> None:
    mine = bench.folder / "models" / "mine-v1.2"
    shutil.copytree(DEMO_FOLDER, mine)
    on_demo, on_mine, on_nothing = (bench.tuned(base) for base in ("demo", "mine-v1.2", "untrained"))

    for adapter, base in ((on_demo, DEMO_FOLDER.name), (on_mine, "mine-v1.2"), (on_nothing, "untrained")):
        source = bench.found(adapter.id, adapter, models_dir=mine.parent)
        assert source.folder.name == base
        assert source.adapter is not None
        assert read_manifest(source.adapter)


def test_the_base_of_an_adapter_may_be_an_artefact_or_a_version_that_the_job_brings(bench: Bench) -> None:
    base = bench.shelf.tree(DEMO_FOLDER)
    by_id, by_name = bench.tuned(str(base.id)), bench.tuned("acme/shapes:1")

    one = bench.found(by_id.id, by_id, base)
    two = bench.found("acme/shapes:2", by_name, base, named={"acme/shapes:1": base.id, "acme/shapes:2": by_name.id})

    assert one.folder == two.folder != DEMO_FOLDER
    assert one.adapter is not None
    assert two.adapter is not None
    assert one.adapter != two.adapter


def test_the_base_of_an_adapter_may_be_a_model_of_a_hub_at_its_commit(bench: Bench) -> None:
    adapter = bench.tuned(f"hub:{REPOSITORY}@{COMMIT}")

    with serving(StandIn(DEMO_FOLDER)) as hub:
        source = bench.found(adapter.id, adapter, hub_endpoint=hub.url)

    assert (source.folder.name, source.revision) == ("Tiny-VL", COMMIT)
    assert source.adapter is not None


def test_a_version_that_the_job_does_not_bring_is_refused_by_its_name(bench: Bench) -> None:
    with pytest.raises(InvalidInput, match="/spec/model: the job names no model acme/shapes:3"):
        bench.found("acme/shapes:3")


def test_a_version_that_is_a_whole_model_is_one_like_any_other(bench: Bench) -> None:
    tree = bench.shelf.tree(DEMO_FOLDER)

    source = bench.found("acme/shapes:1", tree, named={"acme/shapes:1": tree.id})

    assert (source.folder.name, source.adapter) == ("demo_model", None)


def test_an_adapter_whose_base_cannot_be_had_is_refused_with_what_to_do(bench: Bench) -> None:
    silent, further, gone, odd = (bench.tuned(base) for base in (None, "acme/shapes:1", str(uuid4()), "../../mine"))
    other = bench.tuned("demo")

    with pytest.raises(InvalidInput, match=r"no vlyard.json in it says .* \(give its base as `model`, and this as `ad"):
        bench.found(silent.id, silent)
    with pytest.raises(InvalidInput, match="is an adapter, and so is its base, acme/shapes:1"):
        bench.found(further.id, further, other, named={"acme/shapes:1": other.id})
    with pytest.raises(InvalidInput, match=r"is an adapter on the artefact .*, which the job does not have"):
        bench.found(gone.id, gone)
    with pytest.raises(InvalidInput, match="this worker has no model"):
        bench.found(odd.id, odd)
    with pytest.raises(InvalidInput, match=r"/spec/adapter: the model .* is an adapter itself"):
        bench.found(other.id, other, silent, adapter=silent.id)


def test_where_a_whole_model_is_needed_an_adapter_is_refused(bench: Bench) -> None:
    adapter, tree = bench.tuned("demo"), bench.shelf.tree(DEMO_FOLDER)
    context = bench.context(adapter, tree, named={"acme/shapes:1": adapter.id})

    for name in ("acme/shapes:1", adapter.id):
        with (
            pytest.raises(
                InvalidInput, match=r"/spec/model: .* is an adapter \(train on its base, or export it merged"
            ),
            whole(name, context, bench.settings()),
        ):
            pass
    with whole(tree.id, context, bench.settings()) as source:
        assert source.folder.name == "demo_model"


# --- hubs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_a_model_of_a_hub_is_fetched_once_and_told_with_its_commit(bench: Bench, kind: str) -> None:
    with serving(StandIn(DEMO_FOLDER)) as hub:
        first = bench.found(f"hub:{REPOSITORY}", hub=kind, hub_endpoint=hub.url)
        asked = len(hub.asked)
        again = bench.found(f"hub:{REPOSITORY}", hub=kind, hub_endpoint=hub.url)

        assert (first.revision, first.folder.name) == (COMMIT, "Tiny-VL")
        assert (again, len(hub.asked)) == (first, asked)
        assert any(f"fetching {REPOSITORY}: 2 of 2 MB" in said for said in bench.said)


def test_a_revision_can_be_named(bench: Bench) -> None:
    with serving(StandIn(DEMO_FOLDER)) as hub:
        tagged = bench.found(f"hub:{REPOSITORY}@v1", hub_endpoint=hub.url)

        with pytest.raises(InvalidInput, match=f"hub:{REPOSITORY}@v2: .* has no such repository or revision"):
            bench.found(f"hub:{REPOSITORY}@v2", hub_endpoint=hub.url)
    assert tagged.revision == COMMIT


def test_what_was_fetched_is_used_while_the_hub_is_away(bench: Bench) -> None:
    with serving(StandIn(DEMO_FOLDER)) as hub:
        first = bench.found(f"hub:{REPOSITORY}", hub_endpoint=hub.url)
    (note,) = (bench.folder / "cache" / "hub").iterdir()
    note.write_text(json.dumps(json.loads(note.read_text()) | {"at": 0}))  # long ago

    again = bench.found(f"hub:{REPOSITORY}", hub_endpoint=hub.url)

    assert again == first
    assert any("cannot be reached" in said and "using what was fetched earlier" in said for said in bench.said)
    with pytest.raises(Unavailable, match="cannot be reached"):
        bench.found("hub:Acme/Other", hub_endpoint=hub.url)
