"""The page: what was read from the datasets, put into one HTML file that needs no network.

The page carries a content security policy that allows its own two scripts by their hashes and nothing from
outside, so that no text in the data can run or load anything (https://www.w3.org/TR/CSP3/).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.core import plugins
from penstock.core.batch import field_of, to_numpy
from penstock.core.dataset import Manifest, existing, newest
from penstock.core.nouns import Fit
from penstock.core.reading import read_rows, read_sample, read_table
from penstock.core.spec import Spec, View
from penstock.errors import PenstockError, SpecError
from penstock.models.catalogue import CATALOGUE
from penstock.report import clips, measures, plots, pools, story, words
from penstock.report.plots import Figure
from penstock.report.words import duration, last
from penstock.trainings import history

if TYPE_CHECKING:
    import jinja2

__all__ = ["build", "written"]

_POINTS = 5000
_POINTS_IN_ALL = 15000  # of all maps together, since each carries its own hover texts
_MOST_BAD_ROWS = 50
_MOST_CLIPS = 24  # of each fate
_FEWEST_UNITS = 3  # fewer show no course over time
_SPECTRAL = ("cluster", "clusters", "coordinates", "eigenvalues")


def build(target: str | Spec, out: Path, view: View | None = None, names: Sequence[str] = (), file: str = "") -> Path:
    """Write the page about a dataset and all that it was made from, or about all pipelines of a file.

    Args:
        target: a dataset's address, or the pipelines of a file.
        out: the HTML file to write.
        view: what is drawn; a pipeline file's own ``report`` when it is None.
        names: columns whose values the map shows under the pointer; the first text columns when empty.
        file: name of the pipeline file, for the page's head.

    Raises:
        DatasetError: there is no dataset to show.
        SchemaError: *view* names a column that the dataset does not have.
        PenstockError: a package of ``penstock[report]`` is missing.
    """
    view = view or (target.report if isinstance(target, Spec) else None)
    root = _drawn(target, view)
    manifest, line = existing(root), story.lineage(root)
    chapters = [_chapter(at, uri) for at, uri in enumerate(_roots(target, line))]
    told = [chapter.run for chapter in chapters if chapter.run]
    page = {
        "title": view.title if view else last(root),
        "file": file,
        "chapters": chapters,
        "told": told,
        "tiles": _tiles(manifest, told),
        "maps": _maps(manifest, view or _guessed(manifest), names),
        "clusters": _clusters(line, view),
        "gallery": _gallery(chapters),
        "lessons": _lessons(target),
        "flows": _flows(target),
        "lineage": line,
        "citations": {name: entry.citation for name, entry in CATALOGUE.items()},
        "bad": [row for chapter in chapters for row in story.quarantine(chapter.manifest, _MOST_BAD_ROWS)][
            :_MOST_BAD_ROWS
        ],
        "bad_rows": sum(chapter.manifest.bad_rows for chapter in chapters),
    }
    return written(out, "page.html", page)


def _drawn(target: str | Spec, view: View | None) -> str:
    if isinstance(target, str):
        return target.rstrip("/")
    if not target.pipelines:
        raise SpecError("there is no pipeline to report on; write [pipeline.NAME] with a source and a sink")
    pipeline = target.pipeline(view.pipeline) if view else target.pipelines[-1]
    return pipeline.sink.uri.rstrip("/")


def _roots(target: str | Spec, line: Sequence[story.Ancestor]) -> list[str]:
    """The datasets whose runs are told, in the order in which they were made."""
    if isinstance(target, Spec):
        return [uri for uri in (pipeline.sink.uri.rstrip("/") for pipeline in target.pipelines) if newest(uri)]
    return [ancestor.uri for ancestor in reversed(line) if ancestor.manifest]


# --- runs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chapter:
    """The runs of one pipeline."""

    name: str
    manifest: Manifest
    runs: Sequence[story.Run]
    run: story.Run | None
    steps: Sequence[story.StepStory]
    limit: str
    figures: Sequence[Figure]


def _chapter(at: int, root: str) -> _Chapter:
    found = story.runs(root)
    run = story.telling(found)
    steps = story.steps(run) if run else []
    crews = pools.pools(run) if run else []
    figures = [*_run_figures(f"run{at}", run, steps, crews)] if run and steps else []
    limit = pools.limit(run, crews) if run else ""
    return _Chapter(run.facts["pipeline"] if run else last(root), existing(root), found, run, steps, limit, figures)


def _run_figures(
    key: str, run: story.Run, steps: Sequence[story.StepStory], crews: Sequence[pools.Pool]
) -> Iterator[Figure]:
    if max(step.units for step in steps) >= _FEWEST_UNITS:
        yield plots.throughput(key, run)
    yield plots.step_seconds(key, steps)
    yield plots.busy_shares(key, steps)
    if run.workers > 1 and crews:
        yield plots.pool_sizes(key, crews, run.facts["seconds"])
    if run.workers > 1:
        yield plots.peak_memory(key, run.traces)


@dataclass(frozen=True)
class _Tile:
    label: str
    value: str
    alarm: bool = False


def _tiles(manifest: Manifest, told: Sequence[story.Run]) -> list[_Tile]:
    """The rows of the dataset; all else is summed over the runs that are told."""
    sums = {key: sum(run.facts[key] for run in told) for key in ("units", "skipped", "bad_rows", "seconds")}
    carried = sum(run.carried_rows for run in told)
    pace = f"{carried / sums['seconds']:,.0f}" if sums["seconds"] else "none"
    return [
        _Tile("units", f"{sums['units']:,}"),
        _Tile(f"rows in “{last(manifest.uri)}”", f"{manifest.rows:,}"),
        _Tile("bad rows", f"{sums['bad_rows']:,}", bool(sums["bad_rows"])),
        _Tile("time", duration(sums["seconds"])),
        _Tile("rows/s", pace),
        _Tile("units skipped", f"{sums['skipped']:,}"),
    ]


def _gallery(chapters: Sequence[_Chapter]) -> Mapping[str, Any] | None:
    """Clips of the last dataset that has pictures of them."""
    pictured = [chapter.manifest for chapter in chapters if clips.pictured(chapter.manifest)]
    return clips.shelves(pictured[-1], _MOST_CLIPS) if pictured else None


# --- trainings -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lesson:
    """What a training has said."""

    name: str
    use: str
    reads: str
    uri: str
    epochs: int | None
    last: Mapping[str, float | None] | None
    figures: Sequence[Figure]


def _lessons(target: str | Spec) -> list[_Lesson]:
    """The trainings of a file, in the order in which they run."""
    if isinstance(target, str):
        return []
    fits = [line for line in target.lines if isinstance(line, Fit)]
    return [_lesson(f"train{at}", fit) for at, fit in enumerate(fits)]


def _lesson(key: str, fit: Fit) -> _Lesson:
    training, lines = fit.training, [plots.finite(line) for line in history.read(fit.training.uri)]
    use, epochs = plugins.called("trainings", training), getattr(training, "epochs", None)
    figures = plots.lesson_curves(key, lines) if len(lines) > 1 else []
    return _Lesson(fit.name, use, training.reads, training.uri, epochs, lines[-1] if lines else None, figures)


# --- streams ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Flow:
    """Rows that went into a solver while it ran."""

    name: str
    use: str
    uri: str
    fed: story.Feeding


def _flows(target: str | Spec) -> list[_Flow]:
    """The streams of a file, in the order in which they run."""
    streams = () if isinstance(target, str) else target.streams
    return [_Flow(s.name, plugins.called("solvers", s.into), s.into.uri, story.feeding(s)) for s in streams]


# --- the map and the clusters ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Maps:
    """The map in all its colours."""

    column: str
    method: str
    shown: int
    rows: int
    figures: Sequence[Figure]


def _guessed(manifest: Manifest) -> View:
    """A view of a dataset about which nobody said what to draw."""
    schema = manifest.schema
    tensors = [f.name for f in schema if isinstance(f.type, pa.FixedShapeTensorType) and f.name not in _SPECTRAL]
    colour = [name for name in ("cluster",) if name in schema.names]
    return View("", next(iter(tensors), ""), tuple(colour), title=last(manifest.uri))


def _maps(manifest: Manifest, view: View, names: Sequence[str]) -> _Maps | None:
    if not view.map:
        return None
    for name in (view.map, *view.colour, *names):
        field_of(manifest.schema, name, "the report")
    names = names or _texts(manifest.schema, view.colour)
    most = min(_POINTS, _POINTS_IN_ALL // max(len(view.colour), 1))
    table = _finite(read_sample(manifest, _once(view.map, *view.colour, *names), most), view.map)
    if table.num_rows < 2:
        return None
    method, places = measures.layout(_vectors(table, view.map))
    hover = _hover(table, names)
    figures = [
        plots.scatter(f"map{at}", column, places, table[column].to_pylist() if column else [""] * len(hover), hover)
        for at, column in enumerate(view.colour or ("",))
    ]
    return _Maps(view.map, method, table.num_rows, manifest.rows, figures)


def _texts(schema: pa.Schema, colour: Sequence[str]) -> list[str]:
    """The columns that tell rows apart: the first two short texts."""
    found = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    return [name for name in found if name not in colour][:1]


def _once(*names: str) -> list[str]:
    return list(dict.fromkeys(name for name in names if name))


def _finite(table: pa.Table, column: str) -> pa.Table:
    table = table.filter(pc.is_valid(table[column]))
    return table.filter(pa.array(np.isfinite(_vectors(table, column)).all(axis=1)))


def _vectors(table: pa.Table, column: str) -> npt.NDArray[Any]:
    rows = to_numpy(table[column])
    return rows.reshape(len(rows), -1)


def _hover(table: pa.Table, names: Sequence[str]) -> list[str]:
    columns = [table[name].to_pylist() for name in names]
    return [" · ".join(str(value) for value in line) for line in zip(*columns, strict=True)] or [""] * table.num_rows


@dataclass(frozen=True)
class _Clusters:
    """A spectral result, held against the known classes where there are any."""

    chosen: int
    by_gap: bool
    truth: str
    found: measures.Agreement | None
    neighbours: measures.Neighbourhood | None
    figures: Sequence[Figure]


def _clusters(line: Sequence[story.Ancestor], view: View | None) -> _Clusters | None:
    spectral = _with_columns(line, "cluster", "eigenvalues")
    if spectral is None or spectral.rows == 0:
        return None
    chosen = len(pc.unique(read_table(spectral.uri, ["cluster"])["cluster"]))
    values = np.asarray(to_numpy(read_rows(spectral, 0, 1, ["eigenvalues"])["eigenvalues"]))[0]
    by_gap, curve = plots.widest_gap(values) == chosen, plots.eigenvalue_curve(values, chosen)
    judged = _with_columns(line, "cluster", view.truth) if view and view.truth else None
    if judged is None or view is None:
        return _Clusters(chosen, by_gap, "", None, None, [curve])
    found, figures = _against(judged, view.truth, chosen)
    return _Clusters(chosen, by_gap, view.truth, found, _neighbours(judged, view), [curve, *figures])


def _with_columns(line: Sequence[story.Ancestor], *names: str) -> Manifest | None:
    """The nearest dataset of the lineage that has all these columns."""
    return next((a.manifest for a in line if a.manifest and set(names) <= set(a.manifest.schema.names)), None)


def _against(manifest: Manifest, truth: str, chosen: int) -> tuple[measures.Agreement, list[Figure]]:
    sweeps = [name for name in ("clusters",) if name in manifest.schema.names]
    table = read_table(manifest.uri, ["cluster", truth, *sweeps])
    table = table.filter(pc.is_valid(table[truth]))
    known, cluster = np.array(table[truth].to_pylist()), to_numpy(table["cluster"])
    rows, columns, counts = measures.cross_table(known, cluster)
    figures = [plots.cross_map(rows, columns, counts, truth)]
    if sweeps:
        sweep = {k: measures.agreement(known, labels) for k, labels in enumerate(to_numpy(table["clusters"]).T, 2)}
        figures.insert(0, plots.agreement_curves(sweep, chosen, truth))
    return measures.agreement(known, cluster), figures


def _neighbours(manifest: Manifest, view: View) -> measures.Neighbourhood | None:
    if view.map not in manifest.schema.names:
        return None
    table = _finite(read_sample(manifest, [view.map, view.truth], _POINTS), view.map)
    table = table.filter(pc.is_valid(table[view.truth]))
    return measures.neighbourhood(_vectors(table, view.map), table[view.truth].to_pylist()) if len(table) > 1 else None


# --- HTML ------------------------------------------------------------------------------------------------


def written(out: Path, template: str, page: Mapping[str, Any]) -> Path:
    """Fill *template* and write it, with its scripts."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(_rendered(template, page), encoding="utf-8")
    return out


def _rendered(template: str, page: Mapping[str, Any]) -> str:
    plotly = _plotly() if page.get("drawn", True) else ""  # a page without plots is some megabytes smaller
    script = (files(__package__) / "templates" / "page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {_source_of(plotly)} {_source_of(script)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return _templates().get_template(template).render(**page, plotly=plotly, script=script, policy=policy)


def _templates() -> jinja2.Environment:
    try:
        import jinja2
    except ImportError as error:
        raise _missing("jinja2") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(files(__package__) / "templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= words.FILTERS
    return environment


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise _missing("plotly") from error
    return str(get_plotlyjs())


def _missing(package: str) -> PenstockError:
    return PenstockError(f"the report needs {package}: pip install 'penstock[report]'")


def _source_of(script: str) -> str:
    """A script as the policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
