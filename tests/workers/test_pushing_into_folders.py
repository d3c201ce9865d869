from pathlib import Path

import pytest

from vlyard.errors import InvalidInput
from workers.pushing import place
from workers.qwen.exporting.folder import write_sums


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    (folder / "part").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "part" / "weights").write_bytes(b"\x00\x01")
    return folder


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "exports"
    folder.mkdir()
    return folder


def test_an_export_is_put_whole_into_a_new_folder_and_nothing_else_is_left(export: Path, directory: Path) -> None:
    placed = place(export, "cats", directory)

    assert placed == directory / "cats"
    assert (placed / "config.json").read_text() == "{}"
    assert (placed / "part" / "weights").read_bytes() == b"\x00\x01"
    assert [each.name for each in directory.iterdir()] == ["cats"]


def test_a_name_that_is_taken_is_refused_and_what_is_there_stays(export: Path, directory: Path) -> None:
    (directory / "cats").mkdir()

    with pytest.raises(InvalidInput, match="already"):
        place(export, "cats", directory)

    assert list((directory / "cats").iterdir()) == []


def test_the_same_export_that_an_attempt_before_has_put_there_is_enough(export: Path, directory: Path) -> None:
    write_sums(export)
    placed = place(export, "cats", directory)

    assert place(export, "cats", directory) == placed

    (export / "config.json").write_text("another")
    write_sums(export)
    with pytest.raises(InvalidInput, match="already"):
        place(export, "cats", directory)


def test_without_an_export_directory_the_setting_is_named(export: Path, tmp_path: Path) -> None:
    for directory in (None, tmp_path / "away"):
        with pytest.raises(InvalidInput, match="VLYARD_EXPORT_DIR"):
            place(export, "cats", directory)


@pytest.mark.parametrize("name", ["../cats", "a/b", "..", ".cats", "", "/cats"])
def test_a_name_that_leads_elsewhere_is_refused(export: Path, directory: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="name"):
        place(export, name, directory)

    assert list(directory.iterdir()) == []


def test_an_export_that_cannot_be_read_leaves_nothing_behind(export: Path, directory: Path) -> None:
    (export / "part" / "dangling").symlink_to(export / "nowhere")

    with pytest.raises(OSError, match="dangling"):
        place(export, "cats", directory)

    assert list(directory.iterdir()) == []
