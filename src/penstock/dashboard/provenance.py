"""What a manifest says of how a dataset was made, as plain texts: whoever may write one may write anything there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Part", "Provenance", "provenance_of"]

_MOST_CHARACTERS = 20_000


@dataclass(frozen=True)
class Part:
    """A source, step or sink: what it is called, and its settings."""

    use: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Provenance:
    """How a dataset was made.

    Attributes:
        parts: source, steps and sink, in order; none when that is not told.
        licences: one sentence for each of the weights.
        hashes: of weights and code, by what they are of.
        versions: of packages.
        text: all of it, cut where it is too long for a page.
    """

    parts: Sequence[Part] = ()
    licences: Sequence[str] = ()
    hashes: Sequence[tuple[str, str]] = ()
    versions: Sequence[str] = ()
    text: str = ""

    @property
    def source(self) -> str:
        """What was read."""
        return str(self.parts[0].settings.get("uri", "unknown")) if self.parts else "unknown"

    @property
    def clusters(self) -> list[str]:
        """The clusters of its steps, in words."""
        named = [_mapping(part.settings.get("cluster")) for part in self.parts]
        return [f"{one.get('use', 'unknown')} {one.get('host', '')}".strip() for one in named if one]


def provenance_of(told: Any) -> Provenance:
    """Take what is as it should be, and leave out the rest."""
    facts = _mapping(told)
    text = json.dumps(told, indent=1, ensure_ascii=False, default=str)
    return Provenance(
        parts=list(_parts(_mapping(facts.get("pipeline")))),
        licences=[_licence(_mapping(one)) for one in _sequence(facts.get("licences"))],
        hashes=list(_hashes(_mapping(facts.get("identity")))),
        versions=[f"{name} {number}" for name, number in _mapping(facts.get("versions")).items() if number],
        text=text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "…",
    )


def _parts(pipeline: Mapping[str, Any]) -> Iterator[Part]:
    if not pipeline:
        return
    for one in (pipeline.get("source"), *_sequence(pipeline.get("step")), pipeline.get("sink")):
        settings = _mapping(one)
        yield Part(str(settings.get("use", "unknown")).rsplit(":", 1)[-1], settings)


def _licence(terms: Mapping[str, Any]) -> str:
    bound = " (not for commercial use)" if terms.get("commercial") is False else ""
    return f"{terms.get('what', 'unknown')}, licence {terms.get('name', 'unknown')}{bound}"


def _hashes(identity: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for step, hashes in identity.items():
        yield from ((f"{step}: {what}", str(value)) for what, value in _mapping(hashes).items())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
