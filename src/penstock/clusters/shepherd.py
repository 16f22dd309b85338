"""Stays with one job of `penstock.clusters.local`: claims it, runs it, watches the clock, writes how it ended.

``python shepherd.py FOLDER``, with the standard library alone. It is a process of its own, so that the
job outlives whoever submitted it. What happens once is decided by one exclusive ``link``: of any
number of shepherds that are started for a folder, only the first gets its ``claim`` and runs the program.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_GRACE_SECONDS = 3.0
_SIGNALS = {signal.SIGTERM, signal.SIGCHLD}
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)


def main() -> None:
    """Come back to the submitter as soon as the job is claimed, and stay with it in the background."""
    folder = Path(sys.argv[1])
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os._exit(0 if os.read(reader, 1) else 1)
    # Signals wait in line from here on, so that a cancellation that comes with the claim is not lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    ours = claim(folder)
    os.write(writer, b"1")
    os.close(writer)
    if ours:
        tend(folder)


def claim(folder: Path) -> bool:
    """Whether the job is ours to run. The claim says who to look for: host, process and its birth."""
    who = {"host": socket.gethostname(), "pid": os.getpid(), "born": born(os.getpid())}
    temporary = folder / f".claim.{os.getpid()}"
    temporary.write_text(json.dumps(who))
    try:
        os.link(temporary, folder / "claim")
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def born(pid: int) -> str | None:
    """When process *pid* started, in a form that no later process of that number has; None when it is gone.

    Source: proc(5), ``/proc/PID/stat`` field 22, ticks since boot.
    """
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX":
        return None
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {fields[19]}"


def _stat(pid: int) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` from the state on; the name before it may hold any character."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def tend(folder: Path) -> None:
    """Run the job to its end and write ``exit``."""
    started = time.time()
    if (folder / "cancelled").exists():
        code, why = -signal.SIGTERM, "cancelled before it started"
    else:
        code, why = run(folder, json.loads((folder / "record.json").read_text()))
    write(folder / "exit", code, why, started)


def write(path: Path, code: int, why: str, started: float) -> None:
    """Write an exit record, whole or not at all."""
    ended = {"code": code, "why": why, "host": socket.gethostname(), "started": started, "ended": time.time()}
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(ended))
    temporary.replace(path)


def run(folder: Path, record: dict[str, Any]) -> tuple[int, str]:
    """Copy what is to be copied, then run the program for each item; exit status, and why, where that is known."""
    limit = record["time_seconds"]
    deadline = time.monotonic() + limit if limit else float("inf")
    for copy in record["copies"]:
        code, why = _all([Item(folder, copy)], 1, deadline)
        if code or why:
            return code, why or f"{' '.join(copy)} failed"
    count = record["items"]
    items = [Item(folder, record["command"], number if count > 1 else None, count) for number in range(count)]
    code, why = _all(items, record["abreast"], deadline)
    return code, f"ended after its time limit of {limit:g} s" if why == "late" else why


@dataclasses.dataclass
class Item:
    """One run of the program: *number* of *count*, or the only one."""

    folder: Path
    command: list[str]
    number: int | None = None
    count: int = 1
    child: subprocess.Popen[bytes] | None = None
    code: int | None = None
    started: float = 0.0

    def start(self) -> None:
        """Start it; a program that cannot be started has ended with 127, as in a shell."""
        self.started = time.time()
        with contextlib.ExitStack() as stack:
            out, err = (stack.enter_context(self._file(name)) for name in ("stdout", "stderr"))
            told = {} if self.number is None else {"PENSTOCK_ITEM": str(self.number), "PENSTOCK_ITEMS": str(self.count)}
            try:
                self.child = subprocess.Popen(
                    self.command,
                    stdout=out,
                    stderr=err,
                    env={**os.environ, **told},
                    preexec_fn=_released(),  # noqa: PLW1509  (one thread only)
                )
            except OSError as error:
                err.write(f"{self.command[0]} cannot be started: {error.strerror}\n".encode())
                self._end(127)

    def ended(self) -> bool:
        """Whether it has ended; then `code` is known, and an item among several has its own record."""
        if self.code is None and self.child is not None and (code := self.child.poll()) is not None:
            self._end(code)
        return self.code is not None

    def _end(self, code: int) -> None:
        self.code = code
        if self.number is not None:
            write(self.folder / f"exit.{self.number}", code, "", self.started)

    def _file(self, name: str) -> Any:
        return (self.folder / (name if self.number is None else f"{name}.{self.number}")).open("ab")


def _all(items: list[Item], abreast: int, deadline: float) -> tuple[int, str]:
    """Run *items*, so many at once; the first exit status that is not 0, and why."""
    waiting, running = list(reversed(items)), list[Item]()
    why = ""
    while (waiting or running) and not why:
        while waiting and len(running) < abreast:
            running.append(waiting.pop())
            running[-1].start()
        running = [item for item in running if not item.ended()]
        if len(running) == abreast or (running and not waiting):
            why = _wait(running, deadline)
    _end_all([item.child for item in running if item.child])
    for item in running:
        item.ended()
    bad = [item for item in items if item.code != 0]
    code = next((item.code for item in bad if item.code is not None), -signal.SIGTERM if bad else 0)
    if len(items) > 1 and bad and not why:
        why = f"{len(bad)} of {len(items)} items failed, the first is item {bad[0].number}"
    return code, why


def _wait(running: list[Item], deadline: float) -> str:
    """Until one of them has ended, or why all of them must: ``late``, or a signal."""
    while not any(item.ended() for item in running):
        left = deadline - time.monotonic()
        if left <= 0:
            return "late"
        got = signal.sigtimedwait(_SIGNALS, min(left, 3600.0))
        if got is not None and got.si_signo == signal.SIGTERM:
            return "ended by SIGTERM"
    return ""


def _released() -> Any:
    """What the child does before it becomes the program: take signals again, and end when the shepherd does."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what the program leaves behind stays our descendant
    shepherd = os.getpid()

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != shepherd:  # it was gone before the signal was asked for, which then never comes
            os._exit(1)

    return release


def _end_all(children: list[subprocess.Popen[bytes]]) -> None:
    """End all that is left of the job: first asked, and after a while by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + _GRACE_SECONDS
        while _descendants() and time.monotonic() < deadline:
            for child in children:
                child.poll()
            time.sleep(0.02)


def _descendants() -> list[int]:
    """Living processes below this one. Not a process group: MPI launchers give each rank its own."""
    children: dict[int, list[int]] = {}
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        fields = _stat(pid)
        if fields and fields[0] not in "ZX":
            children.setdefault(int(fields[1]), []).append(pid)
    found = children.get(os.getpid(), [])
    for pid in found:  # grows while it is gone through
        found += children.get(pid, [])
    return found


if __name__ == "__main__":
    main()
