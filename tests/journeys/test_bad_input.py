"""Wrong inputs of every kind: a clear error, a living worker, and the next job unaffected."""

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.journeys.conftest import Running
from vlyard import Client, ConversionSpec, InferenceSpec, Job
from vlyard.demo.shapes import draw_dataset
from vlyard.errors import InvalidInput, NotFound, Unauthenticated
from vlyard.formats.archive import pack
from vlyard.jobs.state import State
from vlyard.teams import Role


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A small folder of labelled pictures."""
    draw_dataset(tmp_path / "shapes", count=2, seed=3)
    return tmp_path / "shapes"


def _convert(running: Running, archive: Path) -> Job:
    source = running.client.upload(archive)
    job = running.client.submit(ConversionSpec(source=source.id))
    return running.client.wait(job.id, timeout=120)


def test_an_archive_that_climbs_out_of_its_folder_is_refused_and_the_next_one_converted(
    running: Running, tmp_path: Path, shapes: Path
) -> None:
    # given an archive with a member that would be written elsewhere
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.write(shapes / "images" / "0000.png", "images/0000.png")
        archive.writestr("../../escaped.txt", "0 .5 .5 .1 .1")
    # when it is converted
    job = _convert(running, tmp_path / "evil.zip")
    # then the job failed once, and its error names the member
    assert job.state is State.FAILED
    assert job.error is not None
    assert job.error.code == "refused_archive"
    assert any("../../escaped.txt" in complaint.where for complaint in job.error.complaints)
    assert len(job.attempts) == 1
    # and the same worker converts the next one
    pack(shapes, tmp_path / "good.zip")
    good = _convert(running, tmp_path / "good.zip")
    assert good.state is State.SUCCEEDED
    assert good.attempts[0].worker == job.attempts[0].worker


def _tar_of(path: Path, kind: bytes, name: str = "images/bad") -> Path:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(path, "w") as archive:
        archive.addfile(member)
    return path


def _hostile(folder: Path) -> dict[Path, str]:
    """Archives that no honest person packs, and a part of what is said of each."""
    folder.mkdir()
    many, bomb, overlapping = folder / "many.zip", folder / "bomb.zip", folder / "overlapping.zip"
    with zipfile.ZipFile(many, "w") as archive:
        for number in range(100_000):
            archive.writestr(zipfile.ZipInfo(str(number)), b"")
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(32 * 2**20))
    with zipfile.ZipFile(overlapping, "w") as archive:
        archive.writestr("first", b"x" * 5000)
        archive.writestr("second", b"y" * 5000)
    content = bytearray(overlapping.read_bytes())
    struct.pack_into("<I", content, content.rindex(b"PK\x01\x02") + 42, 0)  # the second lies where the first does
    overlapping.write_bytes(content)
    return {
        _tar_of(folder / "absolute.tar", tarfile.REGTYPE, "/images/a.jpg"): "absolute",
        _tar_of(folder / "symbolic.tar", tarfile.SYMTYPE): "link",
        _tar_of(folder / "hard.tar", tarfile.LNKTYPE): "link",
        _tar_of(folder / "device.tar", tarfile.CHRTYPE): "device",
        many: "members",
        bomb: "times its size",
        overlapping: "overlaps",
    }


def test_hostile_archives_are_all_refused_by_a_worker_that_lives_on(
    running: Running, tmp_path: Path, shapes: Path
) -> None:
    hostile = _hostile(tmp_path / "hostile")
    sources = {archive: running.client.upload(archive) for archive in hostile}
    jobs = {archive: running.client.submit(ConversionSpec(source=source.id)) for archive, source in sources.items()}
    for archive, job in jobs.items():
        ended = running.client.wait(job.id, timeout=180)
        assert ended.error is not None
        assert (archive.name, ended.error.code) == (archive.name, "refused_archive")
        assert hostile[archive] in str(ended.error)
    pack(shapes, tmp_path / "good.zip")
    assert _convert(running, tmp_path / "good.zip").state is State.SUCCEEDED


def test_something_that_is_no_archive_is_refused(running: Running, tmp_path: Path) -> None:
    (tmp_path / "labels.zip").write_bytes(b"this is not a zip file" * 10)
    job = _convert(running, tmp_path / "labels.zip")
    assert job.state is State.FAILED
    assert job.error is not None
    assert "labels.zip" in str(job.error)


def test_a_truncated_picture_fails_its_job_and_not_the_worker(running: Running, tmp_path: Path, shapes: Path) -> None:
    # given the first half of a picture
    whole = (shapes / "images" / "0000.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    image = running.client.upload(tmp_path / "half.png")
    # when a model is asked about it
    job = running.client.submit(InferenceSpec(image=image.id, prompt="What is this?"))
    job = running.client.wait(job.id, timeout=180)
    # then the job failed once, its error names the file, and the worker answers the next question
    assert job.state is State.FAILED
    assert job.error is not None
    assert job.error.code == "unreadable_picture"
    assert "half.png" in str(job.error)
    assert len(job.attempts) == 1
    intact = running.client.upload(shapes / "images" / "0001.png")
    good = running.client.submit(InferenceSpec(image=intact.id, prompt="What is this?"))
    good = running.client.wait(good.id, timeout=180)
    assert good.state is State.SUCCEEDED
    assert good.attempts[0].worker == job.attempts[0].worker


def test_a_model_that_does_not_exist_is_named_in_the_error(running: Running, shapes: Path) -> None:
    image = running.client.upload(shapes / "images" / "0000.png")
    job = running.client.submit(InferenceSpec(image=image.id, prompt="What?", model="no-such-model"))
    job = running.client.wait(job.id, timeout=180)
    assert job.state is State.FAILED
    assert "no-such-model" in str(job.error)


def test_another_teams_artefact_cannot_be_read_or_converted(running: Running, tmp_path: Path, shapes: Path) -> None:
    # given an artefact of one team, and another team's key
    pack(shapes, tmp_path / "ours.zip")
    ours = running.client.upload(tmp_path / "ours.zip")
    with Client(running.url, running.system.key("rivals", Role.MEMBER)) as rival:
        # when the other team names it, then there is no such thing
        with pytest.raises(InvalidInput) as refused:
            rival.submit(ConversionSpec(source=ours.id))
        assert refused.value.complaints[0].where == "/spec/source"
        with pytest.raises(NotFound):
            rival.artefact(ours.id)
        with pytest.raises(NotFound):
            rival.download(ours.id, tmp_path / "stolen.zip")
        assert not (tmp_path / "stolen.zip").exists()


def test_a_bad_key_is_refused(running: Running) -> None:
    with Client(running.url, "vly_000000000000_" + "0" * 64) as stranger, pytest.raises(Unauthenticated):
        next(stranger.jobs())


def test_a_cancelled_conversion_leaves_no_process_and_no_result(running: Running, tmp_path: Path) -> None:
    # given a long conversion that runs in a process of its own
    draw_dataset(tmp_path / "one", count=1, seed=4, side=640)
    label, picture = (tmp_path / "one/labels/0000.txt").read_bytes(), (tmp_path / "one/images/0000.png").read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(3_000):
            archive.writestr(f"images/{number:05d}.png", picture)
            archive.writestr(f"labels/{number:05d}.txt", label)
    (tmp_path / "many.zip").write_bytes(buffer.getvalue())
    source = running.client.upload(tmp_path / "many.zip")
    job = running.client.submit(ConversionSpec(source=source.id))
    while running.client.job(job.id).progress is None:
        assert running.client.job(job.id, wait=1).state in {State.QUEUED, State.DISPATCHED, State.RUNNING}
    # when it is cancelled
    running.client.cancel(job.id)
    # then it ends as cancelled, with nothing recorded
    ended = running.client.wait(job.id, timeout=60)
    assert ended.state is State.CANCELLED
    assert ended.result is None
    assert ended.attempts[-1].outcome == "cancelled"
