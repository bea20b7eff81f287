"""The bill: a JSON line for each answered image, on disk before the answer is on the wire."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from apibench.errors import ApibenchError

UNKNOWN = "unknown"


class Bill:
    """An append-only file of JSON lines; without a path, only counts.

    Each line is one write in append mode, followed by fsync: what a client was answered is on the bill, whatever happens
    next. The file outlives restarts, and its lines of earlier starts count.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._file: int | None = None
        self._path = path
        self._totals: Counter[str] = Counter()
        self._torn = False  # the last line has no end
        self._regular = False
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._regular = stat.S_ISREG(os.fstat(self._file).st_mode)
            if self._regular:  # a pipe has no earlier lines, and a device may have no end
                self._read_earlier(path)
        except OSError as error:
            self.close()
            raise ApibenchError(f"{path}: the bill cannot be written: {error.strerror}") from error

    def _read_earlier(self, path: Path) -> None:
        with path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"}\n"):
                    self._totals[_provider(line)] += 1
                self._torn = not line.endswith(b"\n")

    @property
    def totals(self) -> Counter[str]:
        """Answered images by provider, those of earlier starts on the same file included."""
        with self._lock:
            return Counter(self._totals)

    def append(self, entry: Mapping[str, str]) -> None:
        """Add a line and have it on disk on return. Raises OSError where that fails: then there must be no answer."""
        line = (json.dumps(entry, separators=(",", ":")) + "\n").encode()
        with self._lock:
            if self._path is not None:
                if self._file is None:
                    raise OSError(f"{self._path}: the bill is closed")
                # A line that a full disk cut short is left as it is, and the next one begins anew.
                whole = b"\n" + line if self._torn else line
                self._torn = os.write(self._file, whole) < len(whole)
                if self._torn:
                    raise OSError(f"{self._path}: no room for a line of the bill")
                if self._regular:
                    os.fsync(self._file)
            self._totals[entry.get("provider", UNKNOWN)] += 1

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None


def _provider(line: bytes) -> str:
    """Whose line it is. A file that somebody edited may have lines that nobody can read."""
    try:
        found = json.loads(line)["provider"]
    except (ValueError, KeyError, TypeError):
        return UNKNOWN
    return found if isinstance(found, str) else UNKNOWN
