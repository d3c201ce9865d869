"""Unpacking archives that strangers sent, and packing folders. It knows nothing of what is inside.

Everything is counted while it is unpacked: what an archive says about itself is not believed.
"""

import bz2
import errno
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO, cast

from vlyard.errors import Complaint, RefusedArchive

_CHUNK = 2**20
_HEADER_LIMIT = 2**20  # bytes: a tar header that says it is longer would be read into memory whole
# The system's words for names that cannot be: too long, or at once a file and a folder.
_IMPOSSIBLE_NAME = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ, errno.EINVAL}
_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, LookupError,
    OverflowError, NotImplementedError,
)  # fmt: skip
_DEEPEST = 100  # folders above a file: making them one in the other must end
_DIRECTORY_ENTRY = b"PK\x01\x02"  # where each entry of a zip's directory begins
_ENTRY_LENGTH = 1024  # bytes that an entry of it may take in the mean


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold. The ratio is checked once the first `grace` bytes are unpacked."""

    members: int = 99_999
    bytes: int = 64 * 2**30
    ratio: int = 200  # unpacked to packed bytes: pictures reach 2, labels 10, a bomb 1000
    grace: int = 4 * 2**20


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class _Member:
    name: str
    folder: bool
    open: Callable[[], IO[bytes]]


@dataclass
class _Meter:
    """What was unpacked so far, against the limits."""

    packed: int
    limits: Limits
    members: int = 0
    bytes: int = 0
    seen: set[str] = field(default_factory=set)
    folders: set[tuple[str, ...]] = field(default_factory=set)

    def is_new(self, name: str, folder: tuple[str, ...]) -> bool:
        """Whether the folder was not met before; it and those above it are entries of the disk as files are."""
        known = len(self.folders)
        while folder and folder not in self.folders:
            self.folders.add(folder)
            folder = folder[:-1]
        if len(self.folders) > self.limits.members:
            raise _refused(name, f"the archive has more than {self.limits.members} folders", "split the data set")
        return len(self.folders) > known

    def member(self, name: str) -> None:
        self.members += 1
        if self.members > self.limits.members:
            raise _too_many(name, self.limits)

    def add(self, name: str, count: int) -> None:
        self.bytes += count
        if self.bytes > self.limits.bytes:
            raise _refused(name, f"the archive unpacks to more than {self.limits.bytes} bytes", "split the data set")
        if self.bytes > self.limits.grace and self.bytes > self.limits.ratio * self.packed:
            raise _refused(name, f"the archive unpacks to more than {self.limits.ratio} times its size", "pack it anew")


def unpack(archive: Path, folder: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Unpack a zip or a tar (plain, gz, bz2, xz) into a folder, which is made.

    Raises `RefusedArchive` with the member's name where a path is absolute or leads upwards, where a member is a
    link, a device, encrypted, or there twice, where there is too much of it, or where the archive is damaged.
    Names that differ only by case or by Unicode form are different files, and are unpacked; on a disk that takes them
    for the same, the second one is refused, and the first one is never overwritten.
    """
    folder.mkdir(parents=True, exist_ok=True)
    meter = _Meter(archive.stat().st_size, limits)
    name = archive.name
    try:
        for member in _members(archive, limits):
            name = member.name
            meter.member(name)
            _unpack_member(member, folder, meter)
    except _DAMAGE as damage:
        raise _refused(name, f"the archive is damaged: {damage}", "pack it anew") from damage
    except OSError as damage:
        if damage.errno in _IMPOSSIBLE_NAME:
            raise _refused(name, f"its name cannot be used: {damage.strerror}", "rename it") from damage
        if damage.errno is not None:  # the disk is full, or another trouble that is not the archive's
            raise
        raise _refused(name, f"the archive is damaged: {damage}", "pack it anew") from damage


def pack(folder: Path, archive: Path) -> None:
    """Pack all files below a folder into a zip: sorted, uncompressed, of one fixed date, so that equal gives equal."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for path in files:
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, on which every machine shows the same permissions
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.file_size = path.stat().st_size
            with path.open("rb") as source, packed.open(entry, "w") as target:
                while chunk := source.read(_CHUNK):
                    target.write(chunk)


def _unpack_member(member: _Member, folder: Path, meter: _Meter) -> None:
    parts = _safe_parts(member.name)
    inside = parts if member.folder else parts[:-1]
    if meter.is_new(member.name, inside):
        folder.joinpath(*inside).mkdir(parents=True, exist_ok=True)
    if member.folder:
        return
    key = "/".join(parts)
    if not parts or key in meter.seen:
        raise _refused(member.name, "it is in the archive twice" if parts else "it has no name", "pack it anew")
    meter.seen.add(key)
    with member.open() as source, folder.joinpath(*parts).open("xb") as target:
        while chunk := source.read(_CHUNK):
            meter.add(member.name, len(chunk))
            target.write(chunk)


def _safe_parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or (path.parts and path.parts[0].endswith(":")):
        raise _refused(name, "its path is absolute", "pack the folder with paths relative to it")
    if ".." in path.parts:
        raise _refused(name, "its path leads upwards", "pack the folder with paths relative to it")
    if "\0" in name:
        raise _refused(name, "its name holds a zero byte", "rename it")
    if len(path.parts) > _DEEPEST:
        raise _refused(name, f"it lies more than {_DEEPEST} folders deep", "pack it flatter")
    return path.parts


# --- the two families -----------------------------------------------------------------------------------------


def _members(archive: Path, limits: Limits) -> Iterator[_Member]:
    with archive.open("rb") as file:
        magic = file.read(262 + 3)
    if magic.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_members(archive, limits)
    for mark, opened in _COMPRESSED.items():
        if magic.startswith(mark):
            return _tar_members(cast(IO[bytes], opened(archive)))
    if magic[257:262] == b"ustar":
        return _tar_members(archive.open("rb"))
    what = "it is neither a zip nor a tar (gz, bz2, xz)"
    raise _refused(archive.name, what, "send one of these", "This is no archive.")


_COMPRESSED: Mapping[bytes, Callable[[Path], object]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}


def _zip_members(archive: Path, limits: Limits) -> Iterator[_Member]:
    with archive.open("rb") as file, zipfile.ZipFile(cast(IO[bytes], _CountedDirectory(file, limits))) as packed:
        entries = packed.infolist()
        _refuse_overlaps(entries)
        for entry in entries:
            if entry.flag_bits & 0x1:
                raise _refused(entry.filename, "it is encrypted", "pack it without a password")
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise _refused(entry.filename, f"it is a {_kind_of(kind)}", "pack files and folders only")
            yield _Member(entry.filename, entry.is_dir(), partial(packed.open, entry))


class _CountedDirectory:
    """A zip file that refuses a directory of too many entries before zipfile makes an object of each."""

    def __init__(self, file: IO[bytes], limits: Limits) -> None:
        self._file, self._limits = file, limits
        self.seek, self.tell, self.seekable, self.close = file.seek, file.tell, file.seekable, file.close

    def read(self, count: int = -1) -> bytes:
        if count > self._limits.members * _ENTRY_LENGTH + _CHUNK:
            raise _refused("its directory", f"it says that it has {count} bytes", "split the data set")
        content = self._file.read(count)
        if content.startswith(_DIRECTORY_ENTRY) and content.count(_DIRECTORY_ENTRY) > self._limits.members:
            raise _too_many("its directory", self._limits)
        return content


def _refuse_overlaps(entries: list[zipfile.ZipInfo]) -> None:
    """Members that share their bytes make a small archive large without a high ratio in any of them."""
    ordered = sorted(entries, key=lambda entry: entry.header_offset)
    for first, second in pairwise(ordered):
        if first.header_offset + 30 + first.compress_size > second.header_offset:
            raise _refused(second.filename, f"it overlaps {first.filename}", "pack it anew")


def _tar_members(file: IO[bytes]) -> Iterator[_Member]:
    reads = _SmallReads(file)
    with file, tarfile.open(fileobj=cast(IO[bytes], reads), mode="r:") as packed:
        while (entry := packed.next()) is not None:
            if not (entry.isreg() or entry.isdir()) or entry.issparse():
                kind = stat.S_IFLNK if entry.issym() or entry.islnk() else 0
                raise _refused(entry.name, f"it is a {_kind_of(kind)}", "pack files and folders only")
            if entry.size < 0:
                raise _refused(entry.name, f"it says that it has {entry.size} bytes", "pack it anew")
            yield _Member(entry.name, entry.isdir(), partial(_content, packed, entry))
        if reads.last.strip(b"\0"):  # tarfile takes a broken header for the end
            raise tarfile.ReadError("a header is broken")


def _content(packed: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    content = packed.extractfile(entry)
    assert content is not None  # it is a regular file
    return content


class _SmallReads:
    """A file that refuses to be read in one large piece, as tarfile does with what a header claims to be."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self.last = b""  # what was read last

    def read(self, count: int) -> bytes:
        if count > _HEADER_LIMIT:
            raise _refused("a tar header", f"it says that it has {count} bytes", "pack it anew")
        self.last = self._file.read(count)
        return self.last


def _kind_of(kind: int) -> str:
    return "link" if kind == stat.S_IFLNK else "device or another special file"


def _too_many(name: str, limits: Limits) -> RefusedArchive:
    return _refused(name, f"the archive has more than {limits.members} members", "split the data set")


def _refused(name: str, what: str, fix: str, message: str = "") -> RefusedArchive:
    shown = name.encode("utf-8", "replace").decode()
    return RefusedArchive(message, [Complaint(shown if len(shown) <= 200 else f"{shown[:199]}…", what, fix)])
