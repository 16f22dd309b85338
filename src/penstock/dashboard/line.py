"""A pipeline as boxes from source to sink, each with what it does now or did in the last run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.dashboard.activity import StepNow
from penstock.dashboard.provenance import Part, Provenance
from penstock.report.story import StepStory
from penstock.report.words import count, duration, last

__all__ = ["Box", "boxes"]


@dataclass(frozen=True)
class Box:
    """A source, a step or a sink.

    Attributes:
        key: the number that its name begins with in records: ``0`` reads, the sink writes.
        name: what it is called.
        what: in one line, what is known of it: an address, a model.
        units, busy, wait: in words; empty when nothing is known.
    """

    key: str
    name: str
    what: str
    units: str = ""
    busy: str = ""
    wait: str = ""


def boxes(made: Provenance, now: Sequence[StepNow], before: Sequence[StepStory]) -> list[Box]:
    """The boxes by the manifest, or by what records name when there is none.

    Args:
        made: by which pipeline.
        now: the steps of a run that goes on.
        before: those of the last run that committed, which are told when there are none *now*.
    """
    told = {_key(step.step): _now(step) for step in now} or {_key(step.step): _before(step) for step in before}
    drawn = list(_drawn(made.parts)) or [Box(_key(step.step), _name(step.step), "") for step in now]
    return [Box(box.key, box.name, box.what, *told.get(box.key, ("", "", ""))) for box in drawn]


def _drawn(parts: Sequence[Part]) -> Iterator[Box]:
    for at, part in enumerate(parts):
        ends = {0: "read", len(parts) - 1: "write"}
        what = last(str(part.settings.get("uri", ""))) if at in ends else _telling(part.settings)
        yield Box(ends.get(at, str(at)), part.use, what)


_TELLING = ("model", "tokenizer", "function", "column", "dataset")


def _telling(settings: Mapping[str, Any]) -> str:
    """Of a step's settings, the one that says most of it."""
    return next((str(settings[name]) for name in _TELLING if name in settings), "")


def _key(step: str) -> str:
    """``2-encode`` is step 2; reading and writing have no number."""
    return step.partition("-")[0]


def _name(step: str) -> str:
    return step.partition("-")[2] or step


def _now(step: StepNow) -> tuple[str, str, str]:
    return count(step.units, "unit"), f"{duration(step.busy_seconds)} busy", _wait(step.mean_wait_seconds, step.step)


def _before(step: StepStory) -> tuple[str, str, str]:
    wait = step.waited_seconds / max(step.units, 1)
    return count(step.units, "unit"), f"{duration(step.seconds)} busy", _wait(wait, step.step)


def _wait(seconds: float, step: str) -> str:
    return "" if step == "read" else f"{duration(seconds)} mean wait"
