"""Writes rendered files, and says first what changes."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HEAD", "Change", "changes", "write"]

HEAD = "# Made by `penstock infra render`: change deploy.toml, not this file.\n"
"""The first line of every file, by which one that is no longer wanted is known as ours."""


@dataclass(frozen=True)
class Change:
    """One file that would not be what it was.

    Attributes:
        path: below the folder.
        before: its text; None where it is new.
        after: None where it goes.
    """

    path: str
    before: str | None
    after: str | None

    def diff(self) -> Iterator[str]:
        """The lines of a unified difference."""
        old, new = self.before or "", self.after or ""
        names = (f"a/{self.path}" if self.before is not None else "/dev/null", f"b/{self.path}")
        names = names if self.after is not None else (names[0], "/dev/null")
        yield from difflib.unified_diff(old.splitlines(), new.splitlines(), *names, lineterm="")


def changes(texts: Mapping[str, str], folder: Path) -> list[Change]:
    """What differs between *texts* and the files in *folder*, by path; files of others are let alone."""
    every = {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*.yaml")}
    there = {name: text for name, text in every.items() if name in texts or text.startswith(HEAD)}
    names = sorted({*texts, *there})
    return [Change(name, there.get(name), texts.get(name)) for name in names if there.get(name) != texts.get(name)]


def write(changed: list[Change], folder: Path) -> None:
    """Make *folder* what it should be; files that are as they should be are not touched."""
    for change in changed:
        file = folder / change.path
        if change.after is None:
            file.unlink()
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(change.after, encoding="utf-8")
