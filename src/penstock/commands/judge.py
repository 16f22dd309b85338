"""``penstock judge GENERATED --truth TRUTH``: hold generated flow fields against true ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from penstock.commands.telling import out, told
from penstock.core.batch import to_numpy
from penstock.core.dataset import existing
from penstock.core.reading import read_rows
from penstock.errors import SchemaError, SpecError
from penstock.flows.baselines import random_phase
from penstock.flows.judging import Judgement, Sample
from penstock.flows.judging import judge as judged
from penstock.flows.operators import Floats
from penstock.flows.statistics import Physics
from penstock.flows.steadiness import Course, follow, rest
from penstock.report.flow import build

__all__ = ["judge"]

_MEMBERS = 16
"""Solvers that start from fields of each kind: their mean energy is known to some per cent."""


def judge(
    generated: Annotated[str, typer.Argument(help="The dataset of fields to be judged.", show_default=False)],
    *,
    truth: Annotated[str, typer.Option(help="A dataset of true fields of seeds that no model saw.")],
    training: Annotated[str, typer.Option(help="What the model was trained on: does it remember?")] = "",
    page: Annotated[Path, typer.Option("--out", help="The page.")] = Path("judgement.html"),
    most: Annotated[int, typer.Option(help="So many fields of each dataset, spread evenly over it.")] = 512,
    pair_seconds: Annotated[float, typer.Option(help="Time from `velocity` to `later`.")] = 0.02,
    viscosity: Annotated[float, typer.Option(help="Of the flow.")] = 0.01,
    drag: Annotated[float, typer.Option(help="Of the flow.")] = 0.1,
    amplitude: Annotated[float, typer.Option(help="Of the force.")] = 1.0,
    wavenumber: Annotated[int, typer.Option(help="Of the force.")] = 4,
    steady_seconds: Annotated[float, typer.Option(help="Follow solvers that start from the fields for so long.")] = 0.0,
    step_seconds: Annotated[float, typer.Option(help="Time step of these solvers.")] = 0.02,
) -> None:
    """Judge fields of the column `velocity`: spectra, correlations, increments, equations, memory, coverage.

    Beside the truth's own noise floor and fields of the same spectrum with random phases; a table, and a page. With
    --steady-seconds it says how soon a solver is in its steady state that starts from such fields, and from rest.
    """
    with told():
        physics = Physics(viscosity, drag, amplitude, wavenumber)
        mine, true = _sample("generated", generated, most, pair_seconds), _sample("truth", truth, most, pair_seconds)
        learned = _sample("training", training, 4 * most, pair_seconds) if training else None
        baseline = Sample("random phase", random_phase(true.velocity, 0))
        samples = (mine, true, baseline)
        try:
            found = judged(mine, true, physics, learned)
            courses = _courses(samples, physics, steady_seconds, step_seconds) if steady_seconds else []
        except ValueError as error:
            raise SpecError(f"judge: {error}") from error
        _show(found)
        where = build(found, samples, page, f"Judgement of {Path(generated).name}", courses)
        out.print(f"page: {where.absolute().as_uri()}")


def _sample(name: str, uri: str, most: int, pair_seconds: float) -> Sample:
    """Fields of a dataset, spread evenly over its rows, so that all its trajectories are among them."""
    manifest = existing(uri)
    pairs = "later" in manifest.schema.names and pair_seconds > 0
    rows = read_rows(manifest, 0, manifest.rows, ["velocity", "later"] if pairs else ["velocity"])
    if manifest.rows > most:
        rows = rows.take(np.linspace(0, manifest.rows - 1, most).astype(np.int64))
    flow = to_numpy(rows["velocity"])
    if flow.ndim != 4 or flow.shape[1] != 2 or flow.shape[2] != flow.shape[3]:
        raise SchemaError(
            f"{uri}: `velocity` is {manifest.schema.field('velocity').type}; a tensor [2, n, n] was needed"
        )
    return Sample(name, flow, to_numpy(rows["later"]) if pairs else None, pair_seconds)


def _courses(samples: Sequence[Sample], physics: Physics, seconds: float, step_seconds: float) -> list[Course]:
    """Solvers from some fields of each sample, and from rest."""
    starts = {each.name: _some(each.velocity) for each in samples}
    starts["rest"] = rest(samples[0].velocity.shape[-1], _MEMBERS)
    return [follow(name, flow, physics, seconds, step_seconds) for name, flow in starts.items()]


def _some(flow: Floats) -> Floats:
    return flow[np.linspace(0, len(flow) - 1, min(len(flow), _MEMBERS)).astype(np.int64)]


def _show(found: Judgement) -> None:
    table = Table(box=None, padding=(0, 2))
    table.add_column("figure")
    for name, count in found.samples.items():
        table.add_column(f"{name} ({count})", justify="right")
    for line in found.lines:
        values = [line.values.get(name) for name in found.samples]
        table.add_row(line.name, *("-" if value is None else f"{value:.3g}" for value in values))
    out.print(table)
    out.print(f"smaller is better, but for coverage; '{found.truth}' is the noise floor, one half judged by the other")
