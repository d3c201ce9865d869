"""An export goes to a hub whole, as one commit, and nobody but the hub ever sees the token."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from control.settings import Settings
from tests.workers.hubs import COMMIT
from tests.workers.takers import REPOSITORY, TAKERS, TOKEN, ModelScope, Taker, serving
from vlyard.errors import Cancelled, InvalidInput, Unavailable, VLyardError
from workers.hub_pushing import HubName, push, require_hub

SETTINGS = {"huggingface": "VLYARD_PUSH_TOKEN", "modelscope": "VLYARD_MODELSCOPE_PUSH_TOKEN"}


@pytest.fixture(params=TAKERS)
def hub(request: pytest.FixtureRequest) -> HubName:
    name: HubName = request.param
    return name


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# street\n")
    (folder / "tokenizer.json").write_text("word " * 20_000)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    return folder


def settings_for(hub: HubName, taker: Taker) -> Settings:
    """An operator whose hub this is."""
    token = SecretStr(TOKEN)
    return (
        Settings(hub_endpoint=taker.url, push_token=token)
        if hub == "huggingface"
        else Settings(other_hub_endpoint=taker.url, modelscope_push_token=token)
    )


def sent(hub: HubName, export: Path, settings: Settings, **options: Any) -> str:
    wanted = {"private": True, "check": lambda: None, **options}
    return push(export, hub, REPOSITORY, settings, **wanted)


def test_every_file_arrives_in_one_commit_whose_name_is_told(hub: HubName, export: Path) -> None:
    with serving(TAKERS[hub]()) as taker:
        told = sent(hub, export, settings_for(hub, taker))

    assert told == f"hub:{REPOSITORY}@{COMMIT}"
    assert taker.files == {path.name: path.read_bytes() for path in export.iterdir()}
    assert taker.commits == 1
    assert taker.made == {"name": REPOSITORY, "private": True}


def test_a_card_that_the_hub_refuses_is_told_in_its_words(export: Path) -> None:
    card = "---\nlibrary_name: transformers\nbase_model: vision/qwen:1\n---\n# street\n"
    (export / "README.md").write_text(card)

    with serving(TAKERS["huggingface"]()) as taker, pytest.raises(InvalidInput, match='value "vision/qwen:1" is not'):
        sent("huggingface", export, settings_for("huggingface", taker))


@pytest.mark.parametrize("unseen", [False, True])
def test_what_modelscope_has_already_is_neither_made_nor_sent_again(export: Path, unseen: bool) -> None:
    with serving(ModelScope(unseen=unseen)) as taker:
        settings = settings_for("modelscope", taker)
        sent("modelscope", export, settings, private=False)
        first = dict(taker.blobs)
        shutil.copy(export / "model.safetensors", export / "again.safetensors")
        (export / "new.safetensors").write_bytes(b"new")
        sent("modelscope", export, settings)

    assert len(taker.blobs) == len(first) + 1
    assert taker.files == {path.name: path.read_bytes() for path in export.iterdir()}
    assert taker.made["private"] is False  # it stays what it was made as


@pytest.mark.parametrize(
    ("misfortune", "kind", "words"),
    [
        ({"token": "another"}, InvalidInput, "/spec/repository: {hub} refuses the workers' token"),
        ({"status": 403, "words": f"{TOKEN} may not write"}, InvalidInput, "{setting}"),
        ({"status": 400, "words": "the name is taken"}, InvalidInput, "/spec/repository: {hub} refuses it"),
        ({"status": 500, "words": "out of order"}, Unavailable, "{hub} does not take the export"),
    ],
)
def test_what_the_hub_refuses_is_told_without_the_token(
    hub: HubName, export: Path, misfortune: dict[str, Any], kind: type[VLyardError], words: str
) -> None:
    expected = words.format(hub=hub, setting=SETTINGS[hub])
    with serving(TAKERS[hub](**misfortune)) as taker, pytest.raises(kind, match=expected) as refused:
        sent(hub, export, settings_for(hub, taker))

    assert TOKEN not in str(refused.value)
    for path in export.parent.rglob("*"):  # whatever was written on the way
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes(), path


def test_a_hub_that_is_away_is_an_outage(hub: HubName, export: Path) -> None:
    with serving(TAKERS[hub]()) as taker:
        settings = settings_for(hub, taker)

    with pytest.raises(Unavailable, match=f"{hub} does not take the export"):
        sent(hub, export, settings)


def test_sending_stops_when_it_is_time_to(hub: HubName, export: Path) -> None:
    def stop() -> None:
        raise Cancelled

    with serving(TAKERS[hub](hangs=True)) as taker, pytest.raises(Cancelled):
        sent(hub, export, settings_for(hub, taker), check=stop)


def test_the_token_of_one_hub_is_none_for_the_other_and_without_one_it_is_refused_before_any_work(hub: HubName) -> None:
    others = {"huggingface": "modelscope_push_token", "modelscope": "push_token"}

    with pytest.raises(InvalidInput, match=f"/spec/push_to: .*{SETTINGS[hub]}"):
        require_hub(hub, Settings.model_validate({others[hub]: TOKEN}))
