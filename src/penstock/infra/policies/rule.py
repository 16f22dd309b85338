"""What a rule is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["Breach", "Documents", "Finding", "Found", "Rule", "at", "listed", "rule", "walked"]

Documents: TypeAlias = Mapping[str, Any]
"""Plain data by file, all of one kind."""

Breach: TypeAlias = tuple[str, str]
"""Where in a document (keys with dots between), and what was found there."""

Found: TypeAlias = Iterator[tuple[str, str, str]]
"""The file before them."""


@dataclass(frozen=True, order=True)
class Finding:
    """A breach, as it is told."""

    file: str
    path: str
    rule: str
    sentence: str
    mend: str

    def __str__(self) -> str:
        return f"{self.file}:{self.path} {self.rule} {self.sentence} {self.mend}"


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        id: by which it is known, in the table of docs/infra.md too.
        sentence: what must be so.
        mend: what to do where it is not.
        find: the breaches in all documents of its kind.
    """

    id: str
    sentence: str
    mend: str
    find: Callable[[Documents], Found]

    def findings(self, documents: Documents) -> Iterator[Finding]:
        """Every breach in *documents*."""
        for file, path, found in self.find(documents):
            yield Finding(file, path, self.id, f"{self.sentence} (found: {found}).", self.mend)


def rule(name: str, sentence: str, mend: str) -> Callable[[Callable[[Any], Iterator[Breach]]], Rule]:
    """Make a rule of a function that looks at one document."""

    def made(look: Callable[[Any], Iterator[Breach]]) -> Rule:
        def find(documents: Documents) -> Found:
            for file, document in documents.items():
                for path, found in look(document):
                    yield file, path, found

        return Rule(name, sentence, mend, find)

    return made


def at(data: Any, *keys: str) -> Any:
    """The value below *keys*; None where there is no such way."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def listed(value: Any) -> list[Any]:
    """*value* as a list: nothing, one or many."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def walked(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of *data* with its path, from the top."""
    yield path, data
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from walked(value, f"{path}.{key}".lstrip("."))
    elif isinstance(data, list | tuple):
        for index, value in enumerate(data):
            yield from walked(value, f"{path}.{index}".lstrip("."))
