"""The conversion job's handler, with a store that keeps its files in a folder."""

import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import orjson
import pytest

from tests.language.yolo_sets import LINE, one_picture, picture, write_set
from vlyard.errors import Cancelled, InvalidInput, RefusedArchive
from vlyard.files import Stored, sha256_of
from vlyard.formats.archive import pack
from vlyard.jobs.conversion import ConversionResult, ConversionSpec
from vlyard.jobs.kinds import KINDS
from workers.context import Context
from workers.conversion import run
from workers.progress import Pace


@dataclass
class FolderStore:
    """A store in a folder: the three verbs that a context needs."""

    folder: Path

    def fetch(self, file: Stored, path: Path) -> None:
        shutil.copyfile(self.folder / file.key, path)

    def fetch_each(self, files: Mapping[Path, Stored], told: Callable[[int], None]) -> None:
        for path, file in files.items():
            told(0)
            self.fetch(file, path)

    def put(self, key: str, path: Path, media_type: str) -> tuple[int, str]:  # noqa: ARG002  # the protocol's
        target = self.folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        return path.stat().st_size, sha256_of(path)


@dataclass
class Attempt:
    """One attempt at a conversion of an archive, and all that it said."""

    folder: Path
    archive: Path
    stop_after: int = 10**6
    told: list[tuple[float | None, str]] = field(default_factory=list)

    def run(self, **options: object) -> tuple[ConversionResult, Context]:
        store = FolderStore(self.folder / "store")
        size, sha256 = store.put("uploads/source", self.archive, "application/zip")
        source = Stored(uuid4(), self.archive.name, "application/zip", "uploads/source", size, sha256)
        scratch = self.folder / "scratch"
        scratch.mkdir()
        context = Context(
            job=uuid4(), attempt=1, scratch=scratch, inputs={source.id: source}, store=store, prefix="jobs/7/1",
            tell=lambda fraction, text: self.told.append((fraction, text)), check=self._check,
        )  # fmt: skip
        return run(ConversionSpec.model_validate({"source": source.id, **options}), context), context

    def _check(self) -> None:
        if len(self.told) >= self.stop_after:
            raise Cancelled


def _packed(folder: Path, files: dict[str, str | bytes]) -> Path:
    pack(write_set(folder / "set", files), folder / "cats.zip")
    return folder / "cats.zip"


def test_the_handler_of_the_kind_is_this_one() -> None:
    assert KINDS["conversion"].handler == "workers.conversion:run"


def test_an_uploaded_archive_becomes_artefacts_and_a_result(tmp_path: Path) -> None:
    files = {
        **one_picture(LINE + "0 0.05 0.5 0.2 0.4\nnonsense\n"),
        "images/b.jpg": picture()[:99],
        "labels/b.txt": LINE,
    }
    attempt = Attempt(tmp_path, _packed(tmp_path, files))
    result, context = attempt.run(name="cats", prompts=["Find cats."])

    published = {file.id: file for file in context.published}
    assert {name: published[artefact].name for name, artefact in result.artefacts.items()} == {
        "dataset": "dataset.zip",
        "report": "report.json",
        "report_table": "report.csv",
        "statistics": "statistics.json",
        "plots": "statistics.png",
        "contact_sheet": "contact_sheet.png",
    }
    assert result.model_dump(exclude={"artefacts"}) == {
        "format": "yolo",
        "layout": "ultralytics",
        "classes": ("cat", "dog"),
        "samples": 1,
        "boxes": 2,
        "annotations_kept": 1,
        "annotations_fixed": 1,
        "annotations_refused": 2,
        "annotations_left_out": 0,
        "pictures_refused": 1,
    }
    stored = tmp_path / "store" / "jobs" / "7" / "1"
    with zipfile.ZipFile(stored / "dataset.zip") as dataset:
        described = {"report.json", "report.csv", "statistics.json", "statistics.png", "contact_sheet.png"}
        names = {"cats.json", "dataset_info.json", "images/images/a.jpg", *described}
        assert set(dataset.namelist()) == names
        (sample,) = orjson.loads(dataset.read("cats.json"))
        assert sample["messages"][0]["content"] == "<image>\nFind cats."
    assert orjson.loads((stored / "report.json").read_bytes())["totals"]["boxes"] == 2


def test_progress_rises_and_names_what_is_done(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, _packed(tmp_path, one_picture(LINE)))
    attempt.run()
    fractions = [fraction for fraction, _ in attempt.told if fraction is not None]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] <= 1
    assert any("pictures" in text for _, text in attempt.told)


def test_when_a_conversion_will_be_done_is_known_from_its_progress(tmp_path: Path) -> None:
    files = one_picture(LINE)
    files |= {f"images/{number}.jpg": picture((8, 8)) for number in range(60)}
    attempt = Attempt(tmp_path, _packed(tmp_path, files))
    attempt.run(negatives=1)
    pace = Pace()
    told = [pace.eta(fraction, 2.0 * moment) for moment, (fraction, _) in enumerate(attempt.told)]
    etas = [eta for eta in told if eta is not None]
    assert len(etas) >= 3
    assert etas[0] == max(etas)
    assert etas[-1] <= 2  # seconds between two words of it


def test_a_cancel_is_noticed_between_pictures(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, _packed(tmp_path, one_picture(LINE)), stop_after=3)
    with pytest.raises(Cancelled):
        attempt.run()
    assert not (tmp_path / "store" / "jobs").exists()


def test_a_set_without_a_usable_sample_fails_as_the_user_s_and_says_why(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, _packed(tmp_path, one_picture("5 0.5 0.5 0.1 0.1")))
    with pytest.raises(InvalidInput, match=r"labels/a\.txt:1: no class has the id 5"):
        attempt.run()


def test_an_archive_that_leads_upwards_is_refused_by_the_handler(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../evil.txt", "x")
    with pytest.raises(RefusedArchive, match=r"\.\./\.\./evil\.txt"):
        Attempt(tmp_path, tmp_path / "evil.zip").run()
    assert not list(tmp_path.rglob("evil.txt"))


def test_an_artefact_that_is_no_input_of_the_job_is_refused(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, _packed(tmp_path, one_picture(LINE)))
    with pytest.raises(InvalidInput, match="names no artefact"):
        attempt.run(source=UUID(int=7))
