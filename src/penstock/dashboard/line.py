"""A pipeline as boxes from source to sink, each with what it does now or did in the last run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.core.dataset import Manifest
from penstock.dashboard.activity import StepNow
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


def boxes(made: Manifest | None, now: Sequence[StepNow], before: Sequence[StepStory]) -> list[Box]:
    """The boxes by the manifest, or by what records name when there is none.

    Args:
        made: whose pipeline it is.
        now: the steps of a run that goes on.
        before: those of the last run that committed, which are told when there are none *now*.
    """
    told = {_key(step.step): _now(step) for step in now} or {_key(step.step): _before(step) for step in before}
    drawn = _of_pipeline(made.provenance["pipeline"]) if made and made.provenance.get("pipeline") else []
    drawn = drawn or [Box(_key(step.step), _name(step.step), "") for step in now]
    return [Box(box.key, box.name, box.what, *told.get(box.key, ("", "", ""))) for box in drawn]


def _of_pipeline(pipeline: Mapping[str, Any]) -> list[Box]:
    source, sink = pipeline.get("source", {}), pipeline.get("sink", {})
    steps = [Box(str(at), _called(step), _model(step)) for at, step in enumerate(pipeline.get("step", ()), 1)]
    first = Box("read", _called(source), last(str(source.get("uri", ""))))
    return [first, *steps, Box("write", _called(sink), last(str(sink.get("uri", ""))))]


def _called(part: Mapping[str, Any]) -> str:
    return str(part.get("use", "unknown")).rsplit(":", 1)[-1]


def _model(step: Mapping[str, Any]) -> str:
    return next(
        (str(step[name]) for name in ("model", "tokenizer", "function", "column", "dataset") if name in step), ""
    )


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
