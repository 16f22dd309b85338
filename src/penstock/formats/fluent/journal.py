"""Journals: the text commands that Fluent carries out in batch mode, ``fluent 3ddp -g -t4 -i run.jou``.

Every name is checked and quoted. The commands are those of Fluent's text interface; which question a command asks
may differ between versions, and `Journal.first` may set one: ``/file/set-tui-version "24.1"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from penstock.formats.fluent.files import written
from penstock.formats.fluent.names import quoted

__all__ = ["Journal", "write_journal"]


@dataclass(frozen=True)
class Journal:
    """What a run of Fluent does, in this order.

    Attributes:
        case: the case or mesh file that is read.
        data: the data file that is written at the end.
        first: text commands before everything else.
        profiles: ``.prof`` and ``.csv`` files that are read; one of the same name as in the case replaces it.
        commands: text commands after these are read, such as boundary conditions.
        initial: an interpolation file with initial values; without one Fluent initialises from its boundaries.
        iterations: of a steady run, or the most within each time step.
        time_steps: 0 for a steady run.
    """

    case: str
    data: str
    first: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    initial: str = ""
    iterations: int = 100
    time_steps: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.time_steps < 0:
            raise ValueError(
                f"iterations must be 1 or more and time_steps 0 or more, not {self.iterations} and {self.time_steps}"
            )
        for command in (*self.first, *self.commands):
            if not command.isascii() or not command.isprintable() or command != command.strip() or not command:
                raise ValueError(f"{command!r} is no text command: one line of ASCII was needed")

    def text(self) -> str:
        """The journal. Raises `ValueError` when a file's name cannot stand in it."""
        lines = [
            *self.first,
            f"/file/read-case {quoted(self.case)}",
            *(f"/file/read-profile {quoted(name)}" for name in self.profiles),
            *self.commands,
            f"/file/interpolate/read-data {quoted(self.initial)}"
            if self.initial
            else "/solve/initialize/initialize-flow",
            self._solve(),
            f"/file/write-data {quoted(self.data)}",
            "/exit yes",
        ]
        return "".join(f"{line}\n" for line in lines)

    def _solve(self) -> str:
        if self.time_steps:
            return f"/solve/dual-time-iterate {self.time_steps} {self.iterations}"
        return f"/solve/iterate {self.iterations}"


def write_journal(path: str | Path, journal: Journal) -> None:
    """Write a ``.jou`` file, whole or not at all."""
    with written(path) as file:
        file.write(journal.text().encode("ascii"))
