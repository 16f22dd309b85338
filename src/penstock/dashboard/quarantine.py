"""Rows that failed, page by page. Of all files only four small columns are read, and the rows of one page whole."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import tomli_w

from penstock.core.storage import Entry, join, store_of
from penstock.dashboard.provenance import Part
from penstock.dashboard.rows import cell
from penstock.dashboard.tables import opened
from penstock.errors import PenstockError

__all__ = ["PAGE_ROWS", "BadRow", "Feeding", "Page", "page"]

PAGE_ROWS = 50
_MOST_FILES = 500
_MOST_ROWS = 20_000
_MOST_ERRORS = 8
_ERROR_CHARACTERS = 90
_PREVIEW_CHARACTERS = 200
_MARKS = ("_error", "_step", "_unit", "_uri")


@dataclass(frozen=True)
class _Line:
    """A row by its marks, and where it lies."""

    error: str
    step: str
    unit: str
    uri: str
    file: Entry
    at: int


@dataclass(frozen=True)
class BadRow:
    """A row that failed: where, why, and how it looks."""

    error: str
    step: str
    unit: str
    uri: str
    preview: str


@dataclass(frozen=True)
class Feeding:
    """How the rows that one step refused are read again: a pipeline file, or its source where no more is known."""

    step: str
    text: str


@dataclass(frozen=True)
class Page:
    """One page of rows.

    Attributes:
        number: from 1; *pages* there are.
        found: rows that the filter lets through, of *looked* in *files*.
        errors: the commonest beginnings of errors, with their numbers.
        others: files of other settings, which are not looked at.
        limit: what was not looked at, as a sentence.
        damaged: files that could not be read.
    """

    rows: Sequence[BadRow]
    number: int
    pages: int
    found: int
    looked: int
    files: int
    errors: Sequence[tuple[str, int]]
    feedings: Sequence[Feeding]
    others: int
    limit: str
    damaged: Sequence[str]


def page(root: str, fingerprint: str, number: int = 1, error: str = "", made: Sequence[Part] = ()) -> Page:
    """Rows below ``quarantine/``.

    Args:
        root: of the dataset.
        fingerprint: of the settings whose rows are shown; all when empty.
        number: which page, from 1; one that is not there gives the nearest.
        error: shows those that have this in their error.
        made: source, steps and sink by which the dataset was made, where they are known.
    """
    entries = list(islice(store_of(root).below(join(root, "quarantine")), _MOST_FILES + 1))
    ours = [entry for entry in entries[:_MOST_FILES] if _name(entry).startswith(fingerprint[:16])]
    lines, damaged = _lines(ours)
    found = [line for line in lines if error.lower() in line.error.lower()]
    pages = max(1, -(-len(found) // PAGE_ROWS))
    number = min(max(number, 1), pages)
    return Page(
        rows=list(_whole(found[(number - 1) * PAGE_ROWS : number * PAGE_ROWS])),
        number=number,
        pages=pages,
        found=len(found),
        looked=len(lines),
        files=len(ours),
        errors=Counter(line.error[:_ERROR_CHARACTERS] for line in lines).most_common(_MOST_ERRORS),
        feedings=list(_feedings(root, ours, made)),
        others=len(entries[:_MOST_FILES]) - len(ours),
        limit=_limit(len(entries) > _MOST_FILES or len(lines) >= _MOST_ROWS),
        damaged=damaged,
    )


def _limit(reached: bool) -> str:
    words = f"Only the first {_MOST_FILES} files and about {_MOST_ROWS:,} rows are looked at."
    return words if reached else ""


def _name(entry: Entry) -> str:
    return entry.uri.rsplit("/", 1)[-1]


def _lines(entries: Sequence[Entry]) -> tuple[list[_Line], list[str]]:
    lines: list[_Line] = []
    damaged: list[str] = []
    for entry in entries:
        if len(lines) >= _MOST_ROWS:
            break
        try:
            lines += _marks(entry)
        except (OSError, KeyError, ValueError, PenstockError):
            damaged.append(entry.uri)
    return lines, damaged


@functools.lru_cache(maxsize=2 * _MOST_FILES)
def _marks(entry: Entry) -> tuple[_Line, ...]:
    """The rows of a file, which never changes under its etag."""
    with opened(entry.uri) as file:
        table = file.read(columns=list(_MARKS))
    marks = zip(*(table[name].to_pylist() for name in _MARKS), strict=True)
    return tuple(_Line(str(e), str(s), str(k), str(u), entry, at) for at, (e, s, k, u) in enumerate(marks))


def _whole(lines: Sequence[_Line]) -> Iterator[BadRow]:
    tables: dict[str, Any] = {}
    for line in lines:
        uri = line.file.uri
        if uri not in tables:
            with opened(uri) as file:
                tables[uri] = file.read()
        table = tables[uri].slice(line.at, 1)
        row = {name: table[name][0] for name in table.column_names if name not in _MARKS}
        yield BadRow(line.error, line.step, line.unit, line.uri, _preview(row))


def _preview(row: Mapping[str, Any]) -> str:
    text = ", ".join(f"{name}: {cell(value)}" for name, value in row.items())
    return text if len(text) <= _PREVIEW_CHARACTERS else text[: _PREVIEW_CHARACTERS - 1] + "…"


def _feedings(root: str, entries: Sequence[Entry], made: Sequence[Part]) -> Iterator[Feeding]:
    """One for each step: the columns are those of its first file."""
    firsts = {entry.uri.rsplit("/", 2)[-2]: entry for entry in reversed(entries)}
    for step, entry in sorted(firsts.items()):
        try:
            with opened(entry.uri) as file:
                names = [name for name in file.schema_arrow.names if name not in _MARKS]
        except (OSError, ValueError, PenstockError):
            continue  # is told among the damaged ones
        source = {"use": "parquet", "uri": join(root, "quarantine", step), "columns": names}
        yield Feeding(step, _file(root, step, source, made))


def _file(root: str, step: str, source: Mapping[str, Any], made: Sequence[Part]) -> str:
    """A pipeline file that begins at *step*; what was refused at reading has other columns than the steps take."""
    number = step.partition("-")[0]
    if not made or not number.isdecimal():
        return tomli_w.dumps({"source": source})
    steps = [part.settings for part in made[int(number) : -1]]
    line = {"source": source, "sink": {**made[-1].settings, "uri": f"{root}-mended"}, "step": steps}
    try:
        return tomli_w.dumps({"pipeline": {"mended": line}})
    except (TypeError, ValueError):  # the manifest holds what no pipeline file does
        return tomli_w.dumps({"source": source})
