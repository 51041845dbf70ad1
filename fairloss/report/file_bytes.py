"""The bytes of a file of predictions: packed or not, from standard input or a path, and which encoding they are in.

What is guessed comes back as a sentence, which the report shows. An encoding without a mark can be guessed only in part:
bytes that are no UTF-8 are read as Windows-1252, of which latin-1 is a part. Another encoding of one byte a character would
spell labels otherwise but keep the same ones apart, so that no number depends on the guess.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import sys
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from fairloss.core.checks import expected

__all__ = ["Content", "InputError", "encoding_of", "read_bytes"]

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class InputError(ValueError):
    """Wrong input in a file: one line that says what is wrong, where, and what to do."""


class Content(NamedTuple):
    """What a file holds, unpacked.

    Attributes:
        name: of the file, for messages.
        given: the bytes as they were, of which a hash is taken.
        data: the same unpacked.
        notes: what was done to them, in words.
    """

    name: str
    given: bytes
    data: bytes
    notes: list[str]

    @property
    def parquet(self) -> bool:
        """Whether this is a Parquet file."""
        return self.data[:4] == b"PAR1"


def read_bytes(path: str | Path) -> Content:
    """The bytes of ``path``, or of standard input for "-", unpacked where they are gzip, bzip2, xz or a zip of one file.

    Raises:
        InputError: there is no such file, it is damaged, or of a kind that is no table.
    """
    name = "standard input" if str(path) == "-" else str(path)
    try:
        given = sys.stdin.buffer.read() if str(path) == "-" else Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from None
    try:
        data, packed = _unpacked(given)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise InputError(f"{name}: {error}") from None
    return Content(name, given, data, [f"unpacked from {packed}"] * bool(packed))


def _unpacked(given: bytes) -> tuple[bytes, str]:
    if given[:2] == b"\x1f\x8b":
        return gzip.decompress(given), "gzip"
    if given[:3] == b"BZh":
        return bz2.decompress(given), "bzip2"
    if given[:6] == b"\xfd7zXZ\x00":
        return lzma.decompress(given), "xz"
    if given[:4] == b"\x28\xb5\x2f\xfd":
        raise ValueError("packed with zstd; unpack it first")
    if given[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise ValueError("an old Excel file; save the sheet as CSV")
    if given[:4] != b"PK\x03\x04":
        return given, ""
    with zipfile.ZipFile(io.BytesIO(given)) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX/")]
        if "[Content_Types].xml" in names:
            raise ValueError("an Excel file; save the sheet as CSV")
        if len(names) != 1:
            raise ValueError(f"a zip of {len(names)} files; give one of them")
        return archive.read(names[0]), f"zip ({names[0]})"


def encoding_of(content: Content, encoding: str | None) -> str:
    """The codec of the bytes; appends to ``content.notes`` what was guessed.

    Raises:
        InputError: a codec that there is not, or that the bytes are not in; bytes of two encodings.
    """
    name, data = content.name, content.data
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except LookupError:
            wanted = "a codec of Python, such as utf-8, utf-16, latin-1, cp1252"
            raise InputError(expected("encoding", wanted, repr(encoding))) from None
        marked = next((codec for mark, codec in _MARKS if data.startswith(mark)), "")
        same = codecs.lookup(encoding).name == "utf-8" and marked == "utf-8-sig"  # the mark is no part of the text
        return _checked(name, data, marked if same else encoding)
    for mark, codec in _MARKS:
        if data.startswith(mark):
            if codec != "utf-8-sig":
                content.notes.append(f"encoding {codec.upper()}, by its mark")
            return _checked(name, data, codec)
    start = data[:4000]
    if start.count(0) * 3 > len(start):  # every second byte of UTF-16 is 0 where letters are Latin
        codec = "utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be"
        content.notes.append(f"encoding {codec.upper()}, guessed (encoding= names another)")
        return _checked(name, data, codec)
    try:
        data.decode()
        return "utf-8"
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{data[error.start]:02x} in line {line}"
    # Letters that UTF-8 spells in several bytes beside a byte that it does not know: damaged, or two files in one.
    letters = [c for c in data.decode(errors="replace") if c > "\x7f" and c != "\ufffd"]
    cure = 'encoding="latin-1" reads every byte as a letter; or save it as UTF-8'
    if letters or any(b in data for b in (b"\x81", b"\x8d", b"\x8f", b"\x90", b"\x9d", b"\x00")):
        raise InputError(f"{name}: not a UTF-8 file ({byte}), nor one of Windows-1252 as it seems; {cure}")
    content.notes.append(f"encoding Windows-1252 (latin-1), guessed as {byte} is not UTF-8 (encoding= names another)")
    return "cp1252"


def _checked(name: str, data: bytes, codec: str) -> str:
    try:
        data.decode(codec)
    except (UnicodeError, ValueError) as error:
        raise InputError(f"{name}: not a {codec.upper()} file ({error}); encoding= names another") from None
    return codec
