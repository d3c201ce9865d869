"""What a JPEG or a PNG says of itself, read from a few hundred bytes and without decoding. It knows no labels.

Facts of JPEG: ITU-T T.81, annex B; of PNG: W3C PNG, third edition, chapters 5 and 11; of the orientation: EXIF 2.3,
tag 0x0112. Whatever is not plain is left to those who decode: `read_header` then returns None.
"""

import mmap
import os
import struct
import zlib
from dataclasses import dataclass

_HEAD = 4096  # bytes that are read at once
_CMYK = 4  # components


@dataclass(frozen=True, slots=True)
class Header:
    """What the beginning of an ordinary 8-bit grey, palette, RGB or CMYK picture says."""

    format: str  # JPEG or PNG
    width: int  # as stored, before EXIF turns it
    height: int
    orientation: int  # EXIF's, 1..8
    cmyk: bool


class _Unusual(Exception):
    """Something that only decoding can judge."""


def read_header(path: str) -> Header | None:
    """The header of a JPEG or PNG whose file goes on to its end; None for other formats and for what is unusual.

    Unusual is all that may be transparent or animated, 16-bit grey, XMP or text chunks with an orientation, lossless
    and arithmetic JPEG, impossible sizes, and damage. The end of a JPEG is its end marker, wherever it stands behind
    the first scan: cameras append films and second pictures, and disks zeros. The end of a PNG is its last chunk; what
    follows it is not looked at. Raises `EOFError` where the file ends before that, `OSError` where it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        file = _File(descriptor)
        if file.window.startswith(b"\xff\xd8\xff"):
            return _jpeg(file)
        if file.window.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(file)
    except _Unusual:
        pass
    finally:
        os.close(descriptor)
    return None


class _File:
    """A file that is read in windows, since what matters stands close together."""

    __slots__ = ("descriptor", "size", "start", "window")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.window = os.pread(descriptor, _HEAD, 0)
        self.start = 0
        self.size = os.lseek(descriptor, 0, os.SEEK_END)

    def at(self, position: int, count: int) -> bytes:
        """So many bytes from there; raises `EOFError` where the file ends before."""
        begin = position - self.start
        if not 0 <= begin <= len(self.window) - count:
            begin = self.move(position, count)
        return self.window[begin : begin + count]

    def move(self, position: int, count: int = 10) -> int:
        """Have the window begin there with that much in it, or raise `EOFError`; returns the place in it, 0."""
        self.window, self.start = os.pread(self.descriptor, max(count, _HEAD), position), position
        if len(self.window) < count:
            raise EOFError("it is truncated")
        return 0


# --- JPEG -----------------------------------------------------------------------------------------------------

_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive: what every decoder reads
_SKIPPED = frozenset({0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})  # tables, restart interval, comments, applications
_COMPONENTS = frozenset({1, 3, _CMYK})
_LOOKED_AT = 33  # bytes of a segment: its marker and length, and the longest name that is looked for
_segment = struct.Struct(">BBH").unpack_from
_frame = struct.Struct(">BHHB").unpack_from


def _jpeg(file: _File) -> Header:
    position, frame = 2, (0, 0, 0, 0)
    exif: int | None = None
    elsewhere = False
    while True:
        at = position - file.start
        if at < 0 or at + _LOOKED_AT > len(file.window):
            at = file.move(position)
        mark, marker, length = _segment(file.window, at)
        if mark != 0xFF:
            raise _Unusual
        if marker == _APP1:
            if file.window.startswith(b"Exif\0\0", at + 4):
                if exif is not None:
                    raise _Unusual
                exif = _orientation(file, position + 10, length - 8)
            elif file.window.startswith(b"http://ns.adobe.com/xap/1.0/\0", at + 4):
                elsewhere |= b"tiff:Orientation" in file.at(position + 4, length - 2)
        elif marker in _FRAMES:
            frame = _frame(file.window, at + 4)
        elif marker == _START_OF_SCAN:
            break
        elif marker not in _SKIPPED:
            raise _Unusual
        position += 2 + length
    precision, height, width, components = frame
    if precision != 8 or not width or not height or components not in _COMPONENTS or (elsewhere and not exif):
        raise _Unusual
    _expect_end(file, position)
    return Header("JPEG", width, height, exif or 1, components == _CMYK)


def _expect_end(file: _File, scan: int) -> None:
    """Inside a scan no 0xFF stands before an 0xD9, so the first such pair is the picture's end."""
    if file.size >= scan + 4 and os.pread(file.descriptor, 2, file.size - 2) == b"\xff\xd9":
        return
    with mmap.mmap(file.descriptor, 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"\xff\xd9", scan) < 0:
            raise EOFError("it is truncated: the end of the picture is missing")


# --- PNG ------------------------------------------------------------------------------------------------------

_PLAIN = frozenset({(0, 1), (0, 2), (0, 4), (0, 8), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8)})  # colour, depth
_first = struct.Struct(">I4sIIBBBBBI").unpack
_chunk = struct.Struct(">I4s").unpack
_BEHIND_SIGNATURE = 8
_LONGEST_TEXT = 2**20
_FRAMING = 12  # the bytes of a chunk beside its data: length, name, checksum


def _png(file: _File) -> Header:
    first = file.at(_BEHIND_SIGNATURE, 25)
    length, name, width, height, depth, colour, compression, filtering, interlace, checksum = _first(first)
    plain = (colour, depth) in _PLAIN and compression == filtering == 0 and interlace <= 1 and width and height
    if length != 13 or name != b"IHDR" or not plain or zlib.crc32(first[4:21]) != checksum:
        raise _Unusual
    exif: int | None = None
    elsewhere = False
    position, pixels = _BEHIND_SIGNATURE + 25, 0
    while True:
        length, name = _chunk(file.at(position, 8))
        if name == b"IDAT":
            pixels += 1
            if pixels == 2:
                position = _last_alike(file, position, length)
                length, _ = _chunk(file.at(position, 8))
        elif name == b"IEND":
            break
        elif name == b"eXIf":
            exif = _orientation(file, position + 8, length)
        elif name in {b"tRNS", b"acTL"}:  # transparent, animated
            raise _Unusual
        elif name in {b"tEXt", b"zTXt", b"iTXt"}:
            if length > _LONGEST_TEXT:
                raise _Unusual
            elsewhere |= _may_turn(file.at(position + 8, length))
        position += _FRAMING + length
    if not pixels or (elsewhere and not exif):
        raise _Unusual
    return Header("PNG", width, height, exif or 1, cmyk=False)


def _last_alike(file: _File, position: int, length: int) -> int:
    """The place of the last of a row of pixel chunks that all have this length: encoders fill a buffer each time."""
    step = _FRAMING + length
    ahead = (file.size - position) // step
    for count in (ahead, ahead - 1):
        place = position + count * step
        if count > 0 and place + 8 <= file.size and file.at(place, 8)[4:] == b"IDAT":
            return place
    return position


def _may_turn(text: bytes) -> bool:
    if text.startswith(b"XML:com.adobe.xmp\0\0"):  # not compressed
        return b"tiff:Orientation" in text
    return text.startswith((b"XML:com.adobe.xmp", b"Raw profile type"))


# --- EXIF -----------------------------------------------------------------------------------------------------

_ORIENTATION = 0x0112
_SHORT = 3
_ORDERS = {
    b"II*\0": (struct.Struct("<I"), struct.Struct("<H"), struct.Struct("<HHIHH")),
    b"MM\0*": (struct.Struct(">I"), struct.Struct(">H"), struct.Struct(">HHIHH")),
}


def _orientation(file: _File, start: int, length: int) -> int:
    """The orientation in a block of EXIF, 1..8; 0 where the block does not say."""
    if length < 10:
        raise _Unusual
    order = _ORDERS.get(file.at(start, 4))
    if order is None:
        raise _Unusual
    (directory,) = order[0].unpack(file.at(start + 4, 4))
    if directory + 2 > length:
        raise _Unusual
    (count,) = order[1].unpack(file.at(start + directory, 2))
    if directory + 2 + 12 * count > length:
        raise _Unusual
    found = 0
    for tag, kind, values, value, _ in order[2].iter_unpack(file.at(start + directory + 2, 12 * count)):
        if tag == _ORIENTATION:
            if kind != _SHORT or values != 1:
                raise _Unusual
            found = value if 1 <= value <= 8 else 1
    return found
