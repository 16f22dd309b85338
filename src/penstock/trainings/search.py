"""Which settings are tried for a training, and what is told of each: plain data, drawn by a seed alone.

Where a dataset or a trial lies follows from what it is made of. So trials that differ only in what comes later share
their data, the same file gives the same trials, and a search that is killed finds those that have ended.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import pyarrow as pa

from penstock.core import plugins, spec
from penstock.core.nouns import Batch, Fit, Identified, Pipeline, Source, Unit
from penstock.core.plugins import Plugged
from penstock.core.spec import Range, Spec, Tune
from penstock.core.storage import join, store_of
from penstock.errors import SpecError

__all__ = ["Ended", "First", "Trial", "best", "changes", "draw", "needed", "recall", "record", "short", "trials"]

_TRIES = 100
_DIGITS = 4


@dataclass(frozen=True)
class Trial:
    """One setting.

    Attributes:
        number: from 1, in the order in which they were drawn.
        values: what is set, by the keys of the space.
        pipelines: make the data that it learns from, in their order.
        fit: the training; its address is the trial's own.
    """

    number: int
    values: Mapping[str, Any]
    pipelines: tuple[Pipeline, ...]
    fit: Fit


@dataclass(frozen=True)
class Ended:
    """How a trial went.

    Attributes:
        number, values: of the trial.
        state: ``done`` has all its epochs, ``stopped`` was worse than others, ``failed`` says why in *error*.
        seconds: of this trial.
        lines: what the training said, the oldest first.
    """

    number: int
    values: Mapping[str, Any]
    state: Literal["done", "stopped", "failed"]
    seconds: float
    lines: Sequence[Mapping[str, float]]
    error: str = ""

    def last(self, metric: str) -> float:
        """The metric when the trial ended; NaN when it never came so far."""
        return float(self.lines[-1].get(metric, math.nan)) if self.lines else math.nan


# --- what is tried ---------------------------------------------------------------------------------------


def draw(tune: Tune) -> list[dict[str, Any]]:
    """The settings of all trials, no two of them equal; fewer than asked for where there are not so many."""
    if not tune.samples:
        lists = [cast("tuple[Any, ...]", values) for values in tune.space.values()]
        return [dict(zip(tune.space, chosen, strict=True)) for chosen in product(*lists)]
    found: dict[str, dict[str, Any]] = {}
    for at in range(_TRIES * tune.samples):
        random = np.random.default_rng([tune.seed, at])
        drawn = {key: _value(values, random) for key, values in tune.space.items()}
        found.setdefault(json.dumps(drawn), drawn)
        if len(found) == tune.samples:
            break
    return list(found.values())


def _value(values: tuple[Any, ...] | Range, random: np.random.Generator) -> Any:
    """One of *values*; a whole number of a logarithmic range comes from between the halves around it."""
    if not isinstance(values, Range):
        return values[random.integers(len(values))]
    low, high = values.low, values.high
    half = 0.5 if isinstance(low, int) and isinstance(high, int) else 0.0
    edges = low - half, high + half
    x = math.exp(random.uniform(math.log(edges[0]), math.log(edges[1]))) if values.log else random.uniform(*edges)
    return min(max(round(x) if half else float(f"{x:.{_DIGITS}g}"), low), high)


def changes(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is changed in the file, by dotted keys; values that are tables of such keys are taken apart."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        together = isinstance(value, Mapping) and all("." in inner for inner in value)
        found |= dict(value) if together else {key: value}
    return {key: _told(value) for key, value in found.items()}


def _told(value: Any) -> Any:
    """A text of the space stays a text, also where it looks like a number."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else value


def trials(file: Path, before: Mapping[str, Any]) -> list[Trial]:
    """All trials of a pipeline file.

    Args:
        file: has a ``[tune]``.
        before: other changes of the file.

    Raises:
        SpecError: there is no ``[tune]``, or it sets what the file has no place for.
    """
    tune = _tune(file, spec.load(file, before))
    found = [
        _trial(number, values, spec.load(file, {**before, **changes(values)}), tune)
        for number, values in enumerate(draw(tune), 1)
    ]
    _must_differ(found)
    return found


def _must_differ(found: Sequence[Trial]) -> None:
    seen: dict[str, Trial] = {}
    for trial in found:
        other = seen.setdefault(trial.fit.training.uri, trial)
        if other is not trial:
            raise SpecError(
                f"the trials {json.dumps(other.values)} and {json.dumps(trial.values)} come to the same, since the "
                f"training '{trial.fit.name}' reads nothing of what differs; take it out of [tune.space]"
            )


def _tune(file: Path, found: Spec) -> Tune:
    if found.tune is None:
        raise SpecError(f"{file}: there is no [tune]; write it with train, metric and [tune.space]")
    return found.tune


def needed(found: Spec, name: str) -> tuple[tuple[Pipeline, ...], Fit]:
    """A training, and the pipelines that make what it reads, in their order.

    Raises:
        SpecError: it reads what another training makes.
    """
    fit = next(fit for fit in found.fits if fit.name == name)
    wanted, lines = {*spec.read_by(fit)}, list[Pipeline]()
    for line in reversed(found.lines):
        if spec.written(line) in wanted and line != fit:
            if not isinstance(line, Pipeline):
                raise SpecError(f"'{name}' reads what '{line.name}' makes, which is no pipeline; run that one first")
            lines.insert(0, line)
            wanted |= {*spec.read_by(line)}
    return tuple(lines), fit


def _trial(number: int, values: Mapping[str, Any], found: Spec, tune: Tune) -> Trial:
    """The lines that a trial needs, writing below the search's folder, each where its content says."""
    pipelines, fit = needed(found, tune.train)
    root = tune.uri or f"{spec.written(fit)}-tune"
    places: dict[str, str] = {}
    lines: list[Pipeline] = []
    for pipeline in pipelines:
        line = _placed(_few(pipeline, places, tune.max_units), places)
        places[spec.written(pipeline)] = join(root, "data", _key(spec.plain(line, plugins.called)))
        lines.append(replace(line, sink=_moved(line.sink, places)))
    training = _moved(fit.training, places)
    if tune.epochs:
        training = replace(training, epochs=tune.epochs)
    plain = [plugins.called("trainings", training), plugins.describe(training)]
    places[spec.written(fit)] = join(root, "trials", _key(plain))
    return Trial(number, values, tuple(lines), replace(fit, training=_moved(training, places)))


def _key(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:24]


def _placed(pipeline: Pipeline, places: Mapping[str, str]) -> Pipeline:
    """*pipeline* that reads where the others write now."""
    steps = tuple(replace(step, stage=_moved(step.stage, places)) for step in pipeline.steps)
    return replace(pipeline, source=_moved(pipeline.source, places), steps=steps)


def _moved(part: Any, places: Mapping[str, str]) -> Any:
    """*part* with the addresses among its fields replaced."""
    values = {f.name: getattr(part, f.name) for f in fields(part)}
    found = {name: value.rstrip("/") for name, value in values.items() if isinstance(value, str)}
    moved = {name: places[text] for name, text in found.items() if text in places}
    return replace(part, **moved) if moved else part


def _few(pipeline: Pipeline, places: Mapping[str, str], units: int) -> Pipeline:
    outside = pipeline.source.uri.rstrip("/") not in places
    return replace(pipeline, source=First(pipeline.source, units)) if units and outside else pipeline


@dataclass(frozen=True)
class First:
    """The first *units* of another source."""

    source: Annotated[Source, Plugged("sources")]
    count: int

    @property
    def uri(self) -> str:
        """What is read."""
        return self.source.uri

    def schema(self) -> pa.Schema:
        """That of the whole."""
        return self.source.schema()

    def units(self) -> Iterator[Unit]:
        """The first ones."""
        return islice(self.source.units(), self.count)

    def read(self, unit: Unit) -> Batch:
        """The rows of *unit*."""
        return self.source.read(unit)

    def identity(self) -> Mapping[str, str]:
        """That of the whole."""
        return self.source.identity() if isinstance(self.source, Identified) else {}


# --- what is told ----------------------------------------------------------------------------------------


def record(uri: str, ended: Ended) -> None:
    """Remember how the trial at *uri* went."""
    store_of(uri).replace(join(uri, "ended.json"), json.dumps(asdict(ended)).encode())


def recall(trial: Trial) -> Ended | None:
    """How *trial* went; None when it has not ended."""
    uri = trial.fit.training.uri
    known = store_of(uri).read(join(uri, "ended.json"))
    return replace(Ended(**json.loads(known)), number=trial.number, values=trial.values) if known else None


def best(ended: Sequence[Ended], tune: Tune) -> Ended | None:
    """The trial with the best metric at its end; of equal ones the first. None when there is none."""
    told = [each for each in ended if each.state != "failed" and not math.isnan(each.last(tune.metric))]
    sign = 1 if tune.mode == "max" else -1
    return max(told, key=lambda each: (sign * each.last(tune.metric), -each.number), default=None)


def short(values: Mapping[str, Any]) -> dict[str, Any]:
    """*values* by the last parts of their keys, as many as tell them apart."""
    parts = {key: key.split(".") for key in values}
    found = {}
    for key, mine in parts.items():
        others = [other for name, other in parts.items() if name != key]
        size = next(n for n in range(1, len(mine) + 1) if n == len(mine) or all(o[-n:] != mine[-n:] for o in others))
        found[".".join(mine[-size:])] = values[key]
    return found
