"""Archives are unpacked into their folder and nowhere else, or refused by name."""

import gzip
import io
import os
import stat
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from vlyard.errors import RefusedArchive
from vlyard.formats.archive import Limits, pack, unpack

FILES = {"a.txt": b"one", "deep/er/b.txt": b"two" * 1000, "deep/Größe 猫.txt": b""}


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _refused(archive: Path, folder: Path, limits: Limits | None = None) -> str:
    """Unpack beside a canary; returns the refusal, and proves that nothing was written elsewhere."""
    before = _files(folder)
    with pytest.raises(RefusedArchive) as refusal:
        unpack(archive, folder / "inside", limits or Limits())
    after = {name: content for name, content in _files(folder).items() if not name.startswith("inside/")}
    assert after == before
    return str(refusal.value)


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_good_archive_is_unpacked_whole_whatever_its_name_says(tmp_path: Path, ending: str) -> None:
    archive = tmp_path / "upload.bin"
    if ending == "zip":
        _zip(archive, {"deep/": b"", **FILES})
    else:
        mode = "w:" + ending.removeprefix("tar").removeprefix(".")
        _tar(archive, [(_member("deep", tarfile.DIRTYPE), b""), *((_member(n), c) for n, c in FILES.items())], mode)
    unpack(archive, tmp_path / "inside")
    assert _files(tmp_path / "inside") == FILES


@pytest.mark.parametrize(
    "name", ["../evil.txt", "a/../../evil.txt", "..\\evil.txt", "/etc/evil", "\\evil", "C:\\evil", "C:/evil"]
)
def test_a_path_that_leads_elsewhere_is_refused_and_named(tmp_path: Path, name: str) -> None:
    raw = zipfile.ZipInfo("x")
    raw.filename = name
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(raw, b"evil")
    assert name in _refused(tmp_path / "a.zip", tmp_path)
    tar = _tar(tmp_path / "a.tar", [(_member(name), b"evil")])
    assert name in _refused(tar, tmp_path)


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_a_tar_with_anything_but_files_and_folders_is_refused(tmp_path: Path, kind: bytes) -> None:
    archive = _tar(tmp_path / "a.tar", [(_member("bad", kind, "/etc/passwd"), b"")])
    assert "bad: it is a" in _refused(archive, tmp_path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_a_zip_with_anything_but_files_and_folders_is_refused(tmp_path: Path, kind: int) -> None:
    entry = zipfile.ZipInfo("bad")
    entry.create_system, entry.external_attr = 3, (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    assert "bad: it is a" in _refused(tmp_path / "a.zip", tmp_path)


@pytest.mark.parametrize("ending", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_thousand_to_one_is_refused_before_it_fills_the_disk(tmp_path: Path, ending: str) -> None:
    archive, zeros = tmp_path / "a", bytes(40 * 2**20)
    if ending == "zip":
        _zip(archive, {"bomb": zeros})
    else:
        _tar(archive, [(_member("bomb"), zeros)], "w:" + ending.removeprefix("tar."))
    assert "200 times" in _refused(archive, tmp_path)
    assert (tmp_path / "inside" / "bomb").stat().st_size < 10 * 2**20


def test_too_many_members_and_too_many_bytes_are_refused(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {f"{number}.txt": b"content" for number in range(20)})
    assert "more than 10 members" in _refused(archive, tmp_path, Limits(members=10))
    assert "more than 30 bytes" in _refused(archive, tmp_path / "again", Limits(bytes=30))


def test_a_zip_with_too_many_members_is_refused_before_any_is_unpacked(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {str(number): b"" for number in range(2_000)})
    _refused(archive, tmp_path, Limits(members=1_999))
    assert not any((tmp_path / "inside").iterdir())
    assert Limits().members < 100_000


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_the_members_of_a_tar_are_counted_while_it_is_read(tmp_path: Path, mode: str) -> None:
    archive = _tar(tmp_path / "a.tar", [(_member(str(number)), b"") for number in range(2_000)], mode)
    with archive.open("r+b") as file:
        file.truncate(archive.stat().st_size * 3 // 4)  # whoever reads to the end finds it damaged
    assert "more than 50 members" in _refused(archive, tmp_path, Limits(members=50))
    assert len(_files(tmp_path / "inside")) == 50


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", b"one")
        archive.writestr("./a.txt", b"two")
    assert "a.txt: it is in the archive twice" in _refused(tmp_path / "a.zip", tmp_path)
    tar = _tar(tmp_path / "a.tar", [(_member("b"), b"file"), (_member("b/c"), b"in a file")])
    assert "b/c" in _refused(tar, tmp_path / "again")


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", {"first": os.urandom(5000), "second": os.urandom(5000)})
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    struct.pack_into("<I", content, directory + 42, 0)  # the second member's data begin where the first one's do
    path.write_bytes(content)
    assert "overlaps" in _refused(path, tmp_path)


def test_a_directory_of_very_many_entries_is_refused_before_it_is_read(tmp_path: Path) -> None:
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = entry * 1_000_000
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(directory), 4, 0)
    (tmp_path / "a.zip").write_bytes(b"PK\3\4" + directory + end)
    before = time.process_time()
    assert "more than 99999 members" in _refused(tmp_path / "a.zip", tmp_path)
    assert time.process_time() - before < 1


@pytest.mark.parametrize("offset", [2**40, 2**63, 2**64 - 1])
def test_a_zip64_entry_that_lies_nowhere_is_refused(tmp_path: Path, offset: int) -> None:
    content = bytearray(_zip(tmp_path / "a.zip", {"a.txt": b"x"}).read_bytes())
    directory, end = content.rindex(b"PK\1\2"), content.rindex(b"PK\5\6")
    extra = struct.pack("<HHQ", 1, 8, offset)
    struct.pack_into("<H", content, directory + 30, len(extra))
    struct.pack_into("<I", content, directory + 42, 0xFFFFFFFF)
    (size,) = struct.unpack_from("<I", content, end + 12)
    struct.pack_into("<I", content, end + 12, size + len(extra))
    (tmp_path / "a.zip").write_bytes(content[:end] + extra + content[end:])
    assert "a.txt" in _refused(tmp_path / "a.zip", tmp_path)


def test_a_member_is_as_long_as_it_is_and_not_as_it_says(tmp_path: Path) -> None:
    whole = bytearray(_zip(tmp_path / "a.zip", {"a.txt": b"content" * 9}).read_bytes())
    for length in (5, 2**31):
        struct.pack_into("<I", whole, whole.rindex(b"PK\1\2") + 24, length)
        (tmp_path / f"{length}.zip").write_bytes(whole)
    assert "damaged" in _refused(tmp_path / "5.zip", tmp_path)
    unpack(tmp_path / f"{2**31}.zip", tmp_path / "large")
    assert _files(tmp_path / "large") == {"a.txt": b"content" * 9}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_with_a_broken_header_is_refused_and_its_rest_not_forgotten(tmp_path: Path, mode: str) -> None:
    plain = bytearray(_tar(tmp_path / "a", [(_member(name), b"content") for name in "abc"]).read_bytes())
    plain[1024 + 148] ^= 1  # the second member's checksum
    (tmp_path / "a.tar").write_bytes(gzip.compress(plain) if mode == "w:gz" else plain)
    assert "broken" in _refused(tmp_path / "a.tar", tmp_path)


def _pax(path: Path, headers: dict[str, str], content: bytes = b"content") -> Path:
    member = _member("a.txt")
    member.pax_headers = headers
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
        archive.addfile(_member("b.txt"), io.BytesIO())
    return path


@pytest.mark.parametrize(
    "headers",
    [
        {"path": "../evil.txt"},
        {"path": "/etc/evil"},
        {"size": "-1024"},
        {"size": str(2**60)},
        {"size": "nonsense"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a", "GNU.sparse.realsize": str(2**50)},
        {"GNU.sparse.map": "0,9", "GNU.sparse.size": str(2**50)},
    ],
)
def test_what_an_extended_header_says_is_not_believed(tmp_path: Path, headers: dict[str, str]) -> None:
    _refused(_pax(tmp_path / "a.tar", headers), tmp_path)
    assert sum(len(content) for content in _files(tmp_path / "inside").values()) <= 2048


def test_a_tower_of_folders_is_refused(tmp_path: Path) -> None:
    assert "folders deep" in _refused(_zip(tmp_path / "a.zip", {"a/" * 1_500 + "b": b""}), tmp_path)
    nested = {f"{number}/" + "a/" * 8 + "b": b"" for number in range(4)}
    assert "more than 30 folders" in _refused(_zip(tmp_path / "b.zip", nested), tmp_path / "c", Limits(members=30))


def test_names_that_differ_by_case_or_unicode_form_are_never_written_over_one_another(tmp_path: Path) -> None:
    files = {
        "a.txt": b"1",
        "A.txt": b"2",
        "\N{LATIN SMALL LETTER E WITH ACUTE}": b"3",
        "e\N{COMBINING ACUTE ACCENT}": b"4",
    }
    try:
        unpack(_zip(tmp_path / "a.zip", files), tmp_path / "inside")
    except RefusedArchive:  # a disk that takes them for the same
        assert set(_files(tmp_path / "inside").values()) < set(files.values())
    else:
        assert _files(tmp_path / "inside") == files


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", {"secret.txt": b"x"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x03\x04") + 6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "secret.txt: it is encrypted" in _refused(path, tmp_path)


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_damaged_archive_is_refused_and_not_half_believed(tmp_path: Path, ending: str) -> None:
    whole = tmp_path / "whole"
    noise = {f"{number}.bin": os.urandom(30_000) for number in range(4)}
    if ending == "zip":
        _zip(whole, noise)
    else:
        mode = "w:" + ending.removeprefix("tar").removeprefix(".")
        _tar(whole, [(_member(n), c) for n, c in noise.items()], mode)
    content = whole.read_bytes()
    (tmp_path / "half").write_bytes(content[: len(content) // 2])
    assert "damaged" in _refused(tmp_path / "half", tmp_path)


def test_a_tar_header_that_claims_a_gigabyte_is_not_read_into_memory(tmp_path: Path) -> None:
    header = bytearray(_member("x", tarfile.XHDTYPE).tobuf())
    header[124:136] = b"%011o\0" % 2**30
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(10_240))
    assert "tar header" in _refused(tmp_path / "a.tar", tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8bnonsense", b"Rar!\x1a\x07\x00"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.zip").write_bytes(content)
    assert "labels.zip" in _refused(tmp_path / "labels.zip", tmp_path)


def test_a_name_that_the_system_does_not_allow_is_refused(tmp_path: Path) -> None:
    assert "xxx" in _refused(_zip(tmp_path / "a.zip", {"x" * 300: b"1"}), tmp_path)


def test_packing_the_same_files_gives_the_same_bytes(tmp_path: Path) -> None:
    for place, order in (("one", list(FILES)), ("two", list(reversed(FILES)))):
        for name in order:
            path = tmp_path / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(FILES[name])
            os.utime(path, (len(place) * 10**8, len(order) * 10**8 + (place == "two")))
        pack(tmp_path / place, tmp_path / f"{place}.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    unpack(tmp_path / "one.zip", tmp_path / "inside")
    assert _files(tmp_path / "inside") == FILES
