"""A cap on the memory of processes that counts pages of mapped files too: a control group, where one can be made.

``RLIMIT_DATA`` and its like count what a process has of its own. A control group counts the page cache that its
processes fill as well, so under its limit a mapped file larger than that has to be read again and again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cap", "capped"]

_TOP = Path("/sys/fs/cgroup")
_END_SECONDS = 10.0


@dataclass(frozen=True)
class Cap:
    """A control group with a limit.

    Attributes:
        folder: of the group.
        version: of control groups on this machine, 1 or 2.
    """

    folder: Path
    version: int

    def enter(self, pid: int = 0) -> None:
        """Move a process into the group, by default this one; what it has already is not counted."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def peak_bytes(self) -> int:
        """The most that the group has had."""
        return int((self.folder / ("memory.max_usage_in_bytes" if self.version == 1 else "memory.peak")).read_text())

    def reached(self) -> int:
        """How often the limit was reached, and pages had to be given back."""
        if self.version == 1:
            return int((self.folder / "memory.failcnt").read_text())
        words = (self.folder / "memory.events").read_text().split()
        return int(words[words.index("max") + 1])


@contextmanager
def capped(limit_bytes: int) -> Iterator[Cap | None]:
    """A group below this process's own, removed afterwards; None where this user may not make one."""
    cap = _made(limit_bytes)
    try:
        yield cap
    finally:
        if cap is not None:
            _remove(cap.folder)


def _made(limit_bytes: int) -> Cap | None:
    for version, group in _groups():
        folder = group / f"penstock-{uuid.uuid4().hex[:12]}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / ("memory.limit_in_bytes" if version == 1 else "memory.max")).write_text(str(limit_bytes))
        except OSError:  # no memory controller here
            folder.rmdir()
            continue
        return Cap(folder, version)
    return None


def _groups() -> Iterator[tuple[int, Path]]:
    """The groups of this process that may count memory, by version."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield 1, _TOP / "memory" / path.lstrip("/")
        elif not controllers:
            yield 2, _TOP / path.lstrip("/")


def _remove(folder: Path) -> None:
    """Its processes may take a moment to end; those that do not go back to the group around it."""
    end = time.monotonic() + _END_SECONDS
    while (pids := (folder / "cgroup.procs").read_text().split()) and time.monotonic() < end:
        time.sleep(0.05)
    for pid in pids:
        with suppress(ProcessLookupError):
            (folder.parent / "cgroup.procs").write_text(pid)
    folder.rmdir()
