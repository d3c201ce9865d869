import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from pydantic import SecretStr

from tests.workers.hubs import COMMIT, REPOSITORY, StandIn, serving
from vlyard.errors import Cancelled, InvalidInput, Unavailable
from workers.hub import Hub, HubFile, Progress, Snapshot, download, look_up
from workers.qwen.loading import DEMO_FOLDER, load_model

NEEDED = {
    "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip
WEIGHTS = "model.safetensors"


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    """A hub with the demo model and what else lies in repositories."""
    folder = Path(shutil.copytree(DEMO_FOLDER, tmp_path / "repository"))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_tiny.py").write_text("raise SystemExit")
    (folder / "original.safetensors").write_bytes(b"in another form")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    with serving(StandIn(folder)) as hub:
        yield hub


@pytest.fixture(params=["huggingface", "modelscope"])
def hub(request: pytest.FixtureRequest, stand_in: StandIn) -> Hub:
    return Hub(request.param, stand_in.url)


def fetch(hub: Hub, folder: Path, snapshot: Snapshot | None = None) -> list[Progress]:
    told: list[Progress] = []
    download(hub, snapshot or look_up(hub, REPOSITORY), folder, told.append, lambda: None)
    return told


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_only_the_files_of_a_checkpoint_are_fetched_and_it_loads(hub: Hub, stand_in: StandIn, tmp_path: Path) -> None:
    told = fetch(hub, tmp_path / "here")

    assert names(tmp_path / "here") == NEEDED
    assert {name for name, _ in stand_in.asked} == NEEDED
    assert all((tmp_path / "here" / name).read_bytes() == (DEMO_FOLDER / name).read_bytes() for name in NEEDED)
    assert told[-1].bytes == told[-1].of == sum((DEMO_FOLDER / name).stat().st_size for name in NEEDED)
    assert told[-1].rate > 0
    assert load_model(tmp_path / "here").name == "here"


def test_the_stand_in_is_understood_by_hugging_faces_own_client(stand_in: StandIn) -> None:
    theirs = HfApi(endpoint=stand_in.url).model_info(REPOSITORY, revision="main", files_metadata=True)
    ours = look_up(Hub("huggingface", stand_in.url), REPOSITORY)

    files = {each.rfilename: each for each in theirs.siblings or []}
    assert theirs.sha == ours.revision
    for name in NEEDED:
        lfs = files[name].lfs
        assert files[name].size == ours.files[name].bytes
        assert (lfs.sha256 if lfs else "") == ours.files[name].sha256
        assert (files[name].blob_id if not lfs else "") == ours.files[name].git_sha1


def test_a_snapshot_tells_its_commit_and_has_the_same_digest_for_the_same_content(hub: Hub, stand_in: StandIn) -> None:
    first, again = look_up(hub, REPOSITORY), look_up(hub, REPOSITORY)
    (stand_in.folder / "config.json").write_text("{}")

    assert first.revision == COMMIT
    assert first.digest == again.digest != look_up(hub, REPOSITORY).digest


def test_a_file_without_a_checksum_is_another_one_in_another_commit() -> None:
    def snapshot(revision: str, sha256: str) -> Snapshot:
        return Snapshot(REPOSITORY, revision, {"config.json": HubFile("config.json", 2, revision, sha256)})

    assert snapshot("a", "").digest != snapshot("b", "").digest
    assert snapshot("a", "0" * 64).digest == snapshot("b", "0" * 64).digest


def test_a_file_that_is_far_too_large_for_what_it_is_called_is_refused_before_anything_is_fetched(
    hub: Hub, stand_in: StandIn, tmp_path: Path
) -> None:
    snapshot = look_up(hub, REPOSITORY)
    large = replace(snapshot.files["tokenizer.json"], bytes=2**40)

    with pytest.raises(InvalidInput, match=r"its tokenizer\.json has 1099511627776 bytes"):
        fetch(hub, tmp_path / "here", replace(snapshot, files={**snapshot.files, "tokenizer.json": large}))

    assert stand_in.asked == []


def test_a_download_that_is_cut_goes_on_where_it_stopped(hub: Hub, stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.cut_at = 700_000

    fetch(hub, tmp_path / "here")

    assert [wanted for name, wanted in stand_in.asked if name == WEIGHTS] == ["", "bytes=700000-"]
    assert (tmp_path / "here" / WEIGHTS).read_bytes() == (DEMO_FOLDER / WEIGHTS).read_bytes()


def test_a_later_try_fetches_only_what_is_missing(hub: Hub, stand_in: StandIn, tmp_path: Path) -> None:
    fetch(hub, tmp_path / "here")
    weights = tmp_path / "here" / WEIGHTS
    (tmp_path / "here" / f"{WEIGHTS}.part").write_bytes(weights.read_bytes()[:1_000_000])
    weights.unlink()
    stand_in.asked.clear()

    told = fetch(hub, tmp_path / "here")

    assert stand_in.asked == [(WEIGHTS, "bytes=1000000-")]
    assert told[-1].bytes == told[-1].of
    assert names(tmp_path / "here") == NEEDED


def test_a_hub_that_always_begins_anew_is_followed(hub: Hub, stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.cut_at, stand_in.whole = 700_000, True

    fetch(hub, tmp_path / "here")

    assert (tmp_path / "here" / WEIGHTS).read_bytes() == (DEMO_FOLDER / WEIGHTS).read_bytes()


def test_wrong_bytes_are_fetched_once_more_and_then_refused(hub: Hub, stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.altered = 1
    fetch(hub, tmp_path / "mended")
    stand_in.altered = 2

    with pytest.raises(Unavailable, match=r"sends other bytes of model\.safetensors than it states"):
        fetch(hub, tmp_path / "wrong")

    assert names(tmp_path / "mended") == NEEDED
    assert WEIGHTS not in names(tmp_path / "wrong")


def test_a_small_file_that_was_altered_on_its_way_is_noticed(hub: Hub, stand_in: StandIn, tmp_path: Path) -> None:
    snapshot = look_up(hub, REPOSITORY)
    template = stand_in.folder / "chat_template.jinja"
    template.write_text(template.read_text().swapcase())

    with pytest.raises(Unavailable, match=r"other bytes of chat_template\.jinja"):
        fetch(hub, tmp_path / "here", snapshot)


def test_another_architecture_is_refused_before_its_weights_are_fetched(
    hub: Hub, stand_in: StandIn, tmp_path: Path
) -> None:
    (stand_in.folder / "config.json").write_text('{"model_type": "llama"}')

    with pytest.raises(InvalidInput, match="the model_type is 'llama', not 'qwen3_vl'"):
        fetch(hub, tmp_path / "here")

    assert stand_in.asked == [("config.json", "")]


def test_a_model_without_safetensors_is_refused(hub: Hub, stand_in: StandIn, tmp_path: Path) -> None:
    (stand_in.folder / WEIGHTS).unlink()

    with pytest.raises(InvalidInput, match=f"hub:{REPOSITORY}@{COMMIT}: it has no weights in safetensors"):
        fetch(hub, tmp_path / "here")


def test_a_repository_that_there_is_not_is_named(hub: Hub) -> None:
    with pytest.raises(InvalidInput, match=r"hub:Acme/Nothing@.*: .* has no such repository or revision"):
        look_up(hub, "Acme/Nothing")


def test_a_gated_repository_needs_a_token_that_no_error_shows(hub: Hub, stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.token = "hf_secret"
    with pytest.raises(InvalidInput, match="needs a token in VLYARD_HUB_TOKEN"):
        look_up(hub, REPOSITORY)
    with pytest.raises(InvalidInput, match="that VLYARD_HUB_TOKEN holds with access to it") as wrong:
        look_up(replace(hub, token=SecretStr("hf_other")), REPOSITORY)

    fetch(replace(hub, token=SecretStr("hf_secret")), tmp_path / "here")

    assert "hf_other" not in f"{wrong.value} {hub!r}"
    assert names(tmp_path / "here") == NEEDED


def test_a_hub_that_is_away_is_told_from_a_wrong_name(hub: Hub, stand_in: StandIn, tmp_path: Path) -> None:
    snapshot = look_up(hub, REPOSITORY)
    stand_in.broken = True

    with pytest.raises(Unavailable, match="answers 503 for Acme/Tiny-VL"):
        fetch(hub, tmp_path / "here", snapshot)
    with pytest.raises(Unavailable, match=r"the model hub http://127\.0\.0\.1:9 cannot be reached"):
        look_up(replace(hub, endpoint="http://127.0.0.1:9"), REPOSITORY)


def test_a_download_can_be_called_off_and_taken_up_again(hub: Hub, stand_in: StandIn, tmp_path: Path) -> None:
    looks: list[None] = []

    def check() -> None:
        looks.append(None)
        if (tmp_path / "here" / f"{WEIGHTS}.part").exists() and len(looks) > 20:
            raise Cancelled

    with pytest.raises(Cancelled):
        download(hub, look_up(hub, REPOSITORY), tmp_path / "here", lambda _: None, check)

    assert WEIGHTS not in names(tmp_path / "here")
    fetch(hub, tmp_path / "here")
    assert names(tmp_path / "here") == NEEDED
