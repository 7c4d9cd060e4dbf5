"""The zip file of a bundle: named parts in, named parts out, and nothing unpacked that is larger than a bundle can be."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

from cutlayer.errors import BundleError
from cutlayer.files import write_atomic

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterable, Mapping

MOST_FILE_BYTES = 4 << 20  # our choice: forty times what ships
MOST_BYTES = 2 << 20  # of one part unpacked; our choice: a network of 2 x 512 for 200 plans, forty times what ships
# What zipfile, zlib and struct raise on damaged archives, found by flipping every byte of one (tests/runtime/bundle): none may get out.
UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error)


def write(file: pathlib.Path, parts: Mapping[str, bytes]) -> None:
    """Write the parts, whole or not at all; equal parts give equal files.

    Raises:
        BundleError: a part is larger than would be read again.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            if len(data) > MOST_BYTES:
                raise BundleError(f"{name} of {file} has {len(data)} bytes, at most {MOST_BYTES} are read; train a smaller network")
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)  # a fixed date
    write_atomic(file, buffer.getvalue())


def read(file: pathlib.Path, required: Iterable[str], optional: Iterable[str]) -> dict[str, bytes]:
    """All parts by name.

    Raises:
        BundleError: the file is missing, damaged or too large, lacks a required part or holds one of another name.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_FILE_BYTES + 1)
        if len(content) > MOST_FILE_BYTES:
            raise BundleError(f"{file} has over {MOST_FILE_BYTES} bytes; this is no policy")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            for name in required:
                if name not in names:
                    raise BundleError(f"{file} lacks {name}; export it again")
            if unknown := sorted(set(names) - {*required, *optional}):
                raise BundleError(f"{file} holds {unknown[0][:40]!r}, which no bundle does; export it again")
            if len(names) > len(set(names)):
                raise BundleError(f"{file} holds a part twice; export it again")
            return {name: _part(archive, name, file) for name in names}
    except FileNotFoundError as error:
        raise BundleError(f"no bundle at {file}; make one with: cutlayer export RUN -o {file}") from error
    except UNREADABLE as error:
        raise BundleError(f"{file} is no whole bundle ({error}); copy or export it again") from error


def _part(archive: zipfile.ZipFile, name: str, file: pathlib.Path) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > MOST_BYTES:
        raise BundleError(f"{name} of {file} would unpack to {info.file_size} bytes, at most {MOST_BYTES} are read; this is no policy")
    with archive.open(info) as part:
        data = part.read(MOST_BYTES + 1)
    if len(data) != info.file_size:
        raise BundleError(f"{name} of {file} is not of the length it states; copy or export it again")
    return data
