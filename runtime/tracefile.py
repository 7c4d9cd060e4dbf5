"""The file of a decision trace: it grows to half of what it may take, becomes the one before (`.1`), and a new one begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


class TraceFile:
    """Appends whole lines; every file begins with the head of what decides.

    Raises:
        ConfigError: the path cannot be written to.
    """

    def __init__(self, path: Path, most_bytes: int, head: bytes) -> None:
        self.path, self.before = path, path.with_name(path.name + ".1")
        self._half = most_bytes // 2
        try:
            self.begin(head)
        except OSError as error:
            raise ConfigError(f"cannot write the trace {path}: {error.strerror}; give a writable trace_path") from error

    def begin(self, head: bytes) -> None:
        """Something else decides from now on: another head begins another file, the same one is put once more."""
        self._head = head
        if not self._goes_on():
            self._rotate()
        self._append(head)

    def write(self, lines: bytes) -> None:
        """Append lines; what would be too much for one file is cut at a line's end."""
        while lines:
            room = self._half - self._bytes
            if len(lines) <= room:
                part = lines
            else:
                part = lines[: lines.rfind(b"\n", 0, max(room, 0)) + 1]
                # A line longer than a whole file is not kept: its reader would never see its head.
                if not part and self._bytes <= len(self._head):
                    lines = lines[lines.index(b"\n") + 1 :]
                    continue
            self._append(part)
            lines = lines[len(part) :]
            if lines:
                self._rotate()
                self._append(self._head)

    def _goes_on(self) -> bool:
        """Whether what lies there has the same head and was not cut short."""
        self._bytes = 0
        if not self.path.exists():
            return True
        with self.path.open("rb") as file:
            first, last = file.readline(), b""
            self._bytes = file.seek(0, 2)
            if self._bytes:
                file.seek(-1, 2)
                last = file.read(1)
        return not self._bytes or (first == self._head and last == b"\n")

    def _rotate(self) -> None:
        self.path.replace(self.before)
        self._bytes = 0

    def _append(self, data: bytes) -> None:
        with self.path.open("ab", buffering=0) as file:
            file.write(data)
        self._bytes += len(data)
