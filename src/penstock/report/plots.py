"""Plots as plain data for Plotly (https://plotly.com/javascript/reference/); pure functions.

What the reader's light or dark scheme decides (text, grid, background) is left to the page.
Colours are Paul Tol's *bright* scheme, safe for colour-blind readers (https://sronpersonalpages.nl/~pault/);
past its six colours the shape of the marker changes too.
"""

from __future__ import annotations

import html
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.report.measures import Agreement
from penstock.report.pools import Pool
from penstock.report.story import Run, StepStory
from penstock.trainings.search import Ended, short

__all__ = [
    "Figure",
    "agreement_curves",
    "busy_shares",
    "cross_map",
    "eigenvalue_curve",
    "finite",
    "lesson_curves",
    "parallel_axes",
    "peak_memory",
    "pool_sizes",
    "scatter",
    "step_seconds",
    "throughput",
    "trial_curves",
    "widest_gap",
]

BLUE, RED, GREEN, YELLOW, CYAN, PURPLE, GREY = (
    "#4477AA",
    "#EE6677",
    "#228833",
    "#CCBB44",
    "#66CCEE",
    "#AA3377",
    "#999999",
)
_COLOURS = (BLUE, RED, GREEN, YELLOW, CYAN, PURPLE)
_SYMBOLS = ("circle", "diamond", "x", "triangle-up")
_MOST_CLASSES = len(_COLOURS) * len(_SYMBOLS)
_MOST_WORKERS = 32
_BINS = 60
_LABEL_CHARACTERS = 40


@dataclass(frozen=True)
class Figure:
    """One plot with its words.

    Attributes:
        key: its name in the page.
        title: what it answers.
        caption: how to read it.
        data, layout: as Plotly takes them.
        height: in CSS pixels.
    """

    key: str
    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int = 320


def _safe(text: Any) -> str:
    """A label as Plotly shows it: its texts are a kind of HTML, so ours are escaped."""
    text = str(text)
    return html.escape(text if len(text) <= _LABEL_CHARACTERS else text[: _LABEL_CHARACTERS - 1] + "…", quote=False)


# --- the map ---------------------------------------------------------------------------------------------


def scatter(
    key: str, column: str, places: npt.NDArray[np.float64], values: Sequence[Any], hover: Sequence[str]
) -> Figure:
    """The map, "row 2", coloured by *values*: by class, or by a scale where they are real numbers."""
    xy, texts = np.round(places, 2), [_safe(text) for text in hover]
    real = any(isinstance(value, float) for value in values)
    data = [_scaled(xy, values, texts)] if real else _classes(xy, values, texts)
    rows = 0 if real else -(-len(data) // 5)
    layout = {
        "xaxis": _bare(),
        "yaxis": {**_bare(), "scaleanchor": "x"},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "legend": {"orientation": "h", "y": -0.02, "yanchor": "top", "itemsizing": "constant"},
        "showlegend": len(data) > 1,
        "hovermode": "closest",
    }
    return Figure(key, f"by {column}" if column else "all rows", "", data, layout, 420 + 22 * rows)


def _bare() -> dict[str, Any]:
    return {"showgrid": False, "zeroline": False, "showticklabels": False, "ticks": "", "showline": False}


def _points(xy: npt.NDArray[np.float64], texts: Sequence[str], name: str, marker: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": xy[:, 0].tolist(),
        "y": xy[:, 1].tolist(),
        "text": list(texts),
        "hovertemplate": "%{text}<extra>%{fullData.name}</extra>",
        "marker": {"size": 6 if len(xy) < 1000 else 4, "opacity": 0.85, **marker},
    }


def _scaled(xy: npt.NDArray[np.float64], values: Sequence[Any], texts: Sequence[str]) -> dict[str, Any]:
    marker = {"color": list(values), "colorscale": "Cividis", "colorbar": {"thickness": 10, "outlinewidth": 0}}
    trace = _points(xy, texts, "", marker)
    return {**trace, "hovertemplate": "%{text}<br>%{marker.color}<extra></extra>"}


def _classes(xy: npt.NDArray[np.float64], values: Sequence[Any], texts: Sequence[str]) -> list[dict[str, Any]]:
    common = [value for value, _ in Counter(value for value in values if value is not None).most_common(_MOST_CLASSES)]
    looks = {value: _look(at) for at, value in enumerate(sorted(common))}
    kinds = np.array([value if value in looks else None for value in values], dtype=object)
    groups = [(_safe(value), np.equal(kinds, value).astype(bool), look) for value, look in looks.items()]
    rest = np.array([kind is None for kind in kinds], dtype=bool)
    if rest.any():
        groups.append(("other or none", rest, {"color": GREY, "symbol": "circle-open"}))
    return [
        _points(xy[mask], [text for text, kept in zip(texts, mask, strict=True) if kept], name, look)
        for name, mask, look in groups
    ]


def _look(at: int) -> dict[str, Any]:
    return {"color": _COLOURS[at % len(_COLOURS)], "symbol": _SYMBOLS[at // len(_COLOURS)]}


# --- clusters --------------------------------------------------------------------------------------------


def widest_gap(values: npt.NDArray[np.generic]) -> int:
    """The number of clusters, 2 or more, after which the step to the next eigenvalue is the highest."""
    return int(np.diff(values.astype(np.float64))[1:].argmax()) + 2 if len(values) > 2 else len(values)


def eigenvalue_curve(values: npt.NDArray[np.generic], chosen: int) -> Figure:
    """Rising eigenvalues; the first *chosen* ones are marked."""
    numbers = list(range(1, len(values) + 1))
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": numbers,
        "y": [round(float(value), 6) for value in values],
        "line": {"color": BLUE, "width": 1},
        "marker": {"size": 8, "color": [RED if number <= chosen else BLUE for number in numbers]},
        "hovertemplate": "eigenvalue %{x}: %{y:.4f}<extra></extra>",
    }
    layout = {
        **_marked(chosen + 0.5, f"{chosen} clusters"),
        "xaxis": {"title": {"text": "number of the eigenvalue"}},
        "yaxis": {"title": {"text": "eigenvalue"}},
        "showlegend": False,
    }
    gap = widest_gap(values)
    caption = (
        f"{chosen} clusters, since the widest gap, from 2 on, comes after eigenvalue {chosen}; no labels were used."
        if gap == chosen
        else f"{chosen} clusters were asked for; the widest gap, from 2 on, comes after eigenvalue {gap}."
    )
    return Figure("eigenvalues", "How many clusters are there?", caption, [line], layout, 360)


def _marked(x: float, text: str) -> dict[str, Any]:
    return {
        "shapes": [
            {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": {"color": RED, "dash": "dot"}}
        ],
        "annotations": [
            {"x": x, "yref": "paper", "y": 1.02, "yanchor": "bottom", "text": _safe(text), "showarrow": False}
        ],
    }


def agreement_curves(found: Mapping[int, Agreement], chosen: int, truth: str) -> Figure:
    """Purity, adjusted Rand index and mutual information by the number of clusters."""
    names = (("purity", "purity", GREY), ("ari", "adjusted Rand index", BLUE), ("nmi", "mutual information", GREEN))
    data = [_curve(found, key, name, colour) for key, name, colour in names]
    layout = {
        **_marked(chosen, f"chosen: {chosen}"),
        "xaxis": {"title": {"text": "number of clusters"}},
        "yaxis": {"range": [min(0.0, *(one.ari for one in found.values())), 1.05]},
        "legend": {"orientation": "h", "y": -0.25, "yanchor": "top"},
        "hovermode": "x unified",
    }
    caption = (
        f"Agreement with the column “{truth}”, 1 is perfect. The two indices are 0 or near it for chance; "
        "purity rises with the number of clusters by itself."
    )
    return Figure("agreement", "Do the clusters match the known classes?", caption, data, layout, 360)


def _curve(found: Mapping[int, Agreement], key: str, name: str, colour: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": list(found),
        "y": [round(getattr(one, key), 4) for one in found.values()],
        "line": {"color": colour},
    }


def cross_map(rows: Sequence[Any], columns: Sequence[Any], counts: npt.NDArray[np.int64], truth: str) -> Figure:
    """Cluster by class; classes stand in the order of the cluster that holds most of them."""
    order = np.lexsort((-counts.max(axis=0), counts.argmax(axis=0)))
    counts, columns = counts[:, order], [columns[i] for i in order]
    shares = counts / counts.sum(axis=1, keepdims=True)
    heat = {
        "type": "heatmap",
        "x": [_safe(name) for name in columns],
        "y": [f"cluster {_safe(name)}" for name in rows],
        "z": shares.round(4).tolist(),
        "text": [[f"{count:,}" if count else "" for count in line] for line in counts.tolist()],
        "texttemplate": "%{text}",
        "hovertemplate": "%{y}, %{x}: %{text} rows, %{z:.0%} of the cluster<extra></extra>",
        "colorscale": [[0, "rgba(68,119,170,0)"], [1, "rgba(68,119,170,1)"]],
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "zmin": 0,
        "zmax": 1,
    }
    layout = {
        "xaxis": {"type": "category", "showgrid": False, "automargin": True},
        "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False, "automargin": True},
    }
    caption = f"Numbers count rows; the shade is the share of the cluster that has this “{truth}”."
    return Figure("cross", "What is in each cluster?", caption, [heat], layout, 150 + 30 * len(rows))


# --- runs ------------------------------------------------------------------------------------------------


def throughput(key: str, run: Run) -> Figure:
    """Rows a second over the time of the run, in equal bins."""
    written = run.traces.filter(pc.equal(run.traces["step"], "write"))
    ends = written["finished"].to_numpy() - run.facts["started"]
    stop = max(float(ends.max()), float(run.facts["seconds"]), 1e-3)
    bins = int(np.clip(len(ends), 1, _BINS))
    rows, edges = np.histogram(ends, bins=bins, range=(0.0, stop), weights=written["rows_out"].to_numpy())
    area = {
        "type": "scatter",
        "mode": "lines",
        "x": edges.round(3).tolist(),
        "y": (np.append(rows, rows[-1:]) * bins / stop).round(3).tolist(),
        "line": {"shape": "hv", "color": BLUE, "width": 1.5},
        "fill": "tozeroy",
        "fillcolor": "rgba(68,119,170,0.2)",
        "hovertemplate": "%{y:,.0f} rows/s at %{x:.1f} s<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": "seconds since the start"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "rows/s"}, "rangemode": "tozero"},
        "showlegend": False,
    }
    caption = "A unit counts when it is finished; what comes before the first one is start-up and the first units."
    return Figure(f"{key}-throughput", "How fast did it go?", caption, [area], layout, 280)


def step_seconds(key: str, steps: Sequence[StepStory]) -> Figure:
    """Seconds of each step, at work and waiting before it."""
    data = [
        _bars(steps, [step.seconds for step in steps], "at work", BLUE, "%{x:,.2f} s at work"),
        _bars(steps, [step.waited_seconds for step in steps], "waiting before it", YELLOW, "%{x:,.2f} s waiting"),
    ]
    layout = {**_lying("seconds, all units together"), "barmode": "stack"}
    caption = "Units wait before the step that is too slow for the others."
    return Figure(f"{key}-seconds", "Where did the time go?", caption, data, layout, _tall(len(steps), 120))


def busy_shares(key: str, steps: Sequence[StepStory]) -> Figure:
    """How much of the time of all workers each step was at work."""
    shares = [step.busy_share for step in steps]
    data = [_bars(steps, shares, "busy", GREEN, "busy %{x:.1%} of the workers' time")]
    layout = {**_lying("share of the workers' time"), "showlegend": False}
    layout["xaxis"] |= {"tickformat": ".0%", "range": [0, 1.02 * max(1.0, *shares)]}
    caption = "What is missing to 100 % in all steps together was start-up, waiting and Penstock's own bookkeeping."
    return Figure(f"{key}-busy", "Which step was busy?", caption, data, layout, _tall(len(steps), 90))


def pool_sizes(key: str, found: Sequence[Pool], seconds: float) -> Figure:
    """How many workers each pool had over the time of the run."""
    data = []
    for pool, colour in zip(found, cycle((BLUE, YELLOW, GREEN, PURPLE)), strict=False):
        times = np.concatenate([pool.spans[:, 0], pool.spans[:, 1]])
        change = np.repeat([1, -1], len(pool.spans))[np.argsort(times, kind="stable")]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": _safe("+".join(pool.steps)),
                "x": [0, *np.sort(times).round(3).tolist(), round(seconds, 3)],
                "y": [0, *np.cumsum(change).tolist(), 0],
                "line": {"shape": "hv", "color": colour, "width": 1.5},
                "hovertemplate": "%{y} workers at %{x:.1f} s<extra></extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "seconds since the start"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "workers"}, "rangemode": "tozero"},
        "showlegend": len(found) > 1,
    }
    caption = "A worker counts from the begin of its first unit to the end of its last."
    return Figure(f"{key}-pools", "How many worked?", caption, data, layout, 240)


def peak_memory(key: str, traces: pa.Table) -> Figure:
    """The highest resident memory of each worker."""
    traces = traces.filter(pc.equal(traces["step"], "write"))  # who writes tells its own memory
    peaks = traces.group_by("worker").aggregate([("rss_bytes", "max")]).sort_by([("rss_bytes_max", "descending")])
    peaks = peaks.slice(0, _MOST_WORKERS).to_pydict()
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [_safe(worker) for worker in peaks["worker"]],
        "x": [round(size / 2**30, 3) for size in peaks["rss_bytes_max"]],
        "marker": {"color": PURPLE},
        "hovertemplate": "%{y}: %{x:.2f} GiB<extra></extra>",
    }
    layout = {**_lying("GiB"), "showlegend": False}
    caption = "Peak resident memory of the largest worker processes, shared pages counted."
    return Figure(f"{key}-memory", "How much memory?", caption, [bars], layout, _tall(len(peaks["worker"]), 90))


def _bars(steps: Sequence[StepStory], values: Sequence[float], name: str, colour: str, hover: str) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": [_safe(step.step) for step in steps],
        "x": [round(value, 4) for value in values],
        "marker": {"color": colour},
        "hovertemplate": f"%{{y}}: {hover}<extra></extra>",
    }


def _lying(title: str) -> dict[str, Any]:
    return {
        "xaxis": {"title": {"text": title}, "rangemode": "tozero"},
        "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False, "automargin": True},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        "bargap": 0.35,
    }


def _tall(bars: int, rest: int) -> int:
    return rest + 34 * max(bars, 2)


# --- trainings -------------------------------------------------------------------------------------------

_QUALITY = {
    "likeness": (
        "How well are neighbours told apart?",
        "How often an id beside another scores higher than one drawn at random, on rows that are not learned from: "
        "0.5 is chance, 1 is perfect.",
    ),
    "accuracy": (
        "How many hidden tokens are guessed?",
        "On rows that are not learned from, the same tokens each time.",
    ),
    "held_out_error": (
        "How well are fields reconstructed?",
        "Squared errors of velocity and vorticity over their own squares, on rows that are not learned from: "
        "0 is perfect.",
    ),
    "spectrum_error": (
        "Do generated fields have the energies of true ones?",
        "Logarithm of the ratio of the mean energies in a shell of wave numbers, without its sign, as a mean over all "
        "shells, before gains are fitted: 0 is perfect.",
    ),
}
_LOSSES = {"loss": (BLUE, "learned from"), "held_out_loss": (YELLOW, "held out")}


def finite(line: Mapping[str, float]) -> dict[str, float | None]:
    """JSON, and so a page, knows no numbers that are not finite."""
    return {name: value if math.isfinite(value) else None for name, value in line.items()}


def lesson_curves(key: str, lines: Sequence[Mapping[str, float | None]]) -> list[Figure]:
    """What a training has said over its epochs: the loss, and how good it is at what it learns."""
    losses = [_course(lines, name, *_LOSSES[name]) for name in _LOSSES if name in lines[-1]]
    caption = "Mean over what was learned from last, in nats."
    figures = [Figure(f"{key}-loss", "Does it learn?", caption, losses, _over_epochs("loss", len(losses) > 1))]
    for name in (name for name in _QUALITY if name in lines[-1]):
        title, caption = _QUALITY[name]
        layout = _over_epochs(name)
        figures.append(Figure(f"{key}-{name}", title, caption, [_course(lines, name, GREEN, name)], layout))
    return figures


def _course(lines: Sequence[Mapping[str, float | None]], name: str, colour: str, label: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label,
        "x": [line["epoch"] for line in lines],
        "y": [line.get(name) for line in lines],
        "line": {"color": colour, "width": 2},
        "marker": {"size": 5},
        "hovertemplate": f"%{{y:.4f}} after %{{x:.2f}} epochs<extra>{_safe(label)}</extra>",
    }


def _over_epochs(what: str, legend: bool = False) -> dict[str, Any]:
    return {
        "xaxis": {"title": {"text": "epochs"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": _safe(what.replace("_", " "))}},
        "showlegend": legend,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    }


# --- searches --------------------------------------------------------------------------------------------

_FAINT = "rgba(128,128,128,0.45)"
_MARGIN = 0.04


def trial_curves(ended: Sequence[Ended], winner: Ended, metric: str) -> Figure:
    """The metric of each trial over its epochs; the best one in colour."""
    data = []
    for each in sorted(ended, key=lambda one: one.number == winner.number):
        colour, width = _stroke(each, winner)
        curve = _course([finite(line) for line in each.lines], metric, colour, f"trial {each.number}")
        data.append({**curve, "line": {"color": colour, "width": width}})
    caption = "Each line is a trial, the best one red; the short ones were stopped."
    return Figure("curves", "How did the trials go?", caption, data, _over_epochs(metric), 380)


def _stroke(each: Ended, winner: Ended) -> tuple[str, float]:
    if each.number == winner.number:
        return RED, 3.0
    return (BLUE, 1.5) if each.state == "done" else (_FAINT, 1.0)


def parallel_axes(ended: Sequence[Ended], winner: Ended, metric: str) -> Figure:
    """Each trial as a line through its values and its metric, each on an axis of its own.

    Inselberg (1985), doi:10.1007/BF01898350. Drawn as plain lines: Plotly's own needs scripts made at run time.
    """
    told = [each for each in ended if not math.isnan(each.last(metric))]
    axes = [_axis(name, [short(each.values)[name] for each in told]) for name in short(winner.values)]
    axes.append(_axis(metric, [each.last(metric) for each in told]))
    order = sorted(range(len(told)), key=lambda at: told[at].number == winner.number)
    data = [_trail(told[at], winner, axes, at) for at in order]
    layout = {
        "xaxis": {
            "tickvals": list(range(len(axes))),
            "ticktext": [_safe(axis.name) for axis in axes],
            "showgrid": True,
            "range": [-0.3, len(axes) - 0.5],
            "zeroline": False,
            "side": "top",
        },
        "yaxis": {**_bare(), "range": [-_MARGIN, 1 + _MARGIN]},
        "annotations": [note for at, axis in enumerate(axes) for note in axis.notes(at)],
        "showlegend": False,
        "hovermode": "closest",
        "margin": {"l": 16, "r": 16, "t": 48, "b": 16},
    }
    caption = "Each line is a trial, from its settings on the left to its result on the right; the best one is red."
    return Figure("parallel", "Which settings are good?", caption, data, layout, 420)


@dataclass(frozen=True)
class _Axis:
    """One setting: where each trial stands on it, from 0 to 1, and what is written beside it."""

    name: str
    places: Sequence[float]
    ticks: Sequence[tuple[float, str]]

    def notes(self, at: int) -> list[dict[str, Any]]:
        plain = {"x": at, "xanchor": "left", "xshift": 5, "showarrow": False, "font": {"size": 11}}
        return [{**plain, "y": place, "text": _safe(text)} for place, text in self.ticks]


def _axis(name: str, values: Sequence[Any]) -> _Axis:
    """Numbers by their size, by their logarithm where they lie far apart; other things one above the other."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        texts = [json.dumps(value, sort_keys=True) for value in values]
        kinds = sorted(set(texts))
        step = 1 / max(len(kinds) - 1, 1)
        return _Axis(name, [kinds.index(text) * step for text in texts], [(at * step, t) for at, t in enumerate(kinds)])
    low, high = min(values), max(values)
    scale = math.log if low > 0 and high / low >= 10 else float
    width = (scale(high) - scale(low)) or 1.0
    distinct = sorted(set(values)) if len(set(values)) <= 5 else [low, high]
    ticks = [((scale(value) - scale(low)) / width, f"{value:.4g}") for value in distinct]
    return _Axis(name, [(scale(value) - scale(low)) / width for value in values], ticks)


def _trail(each: Ended, winner: Ended, axes: Sequence[_Axis], at: int) -> dict[str, Any]:
    colour, width = _stroke(each, winner)
    words = ", ".join(f"{name} {value}" for name, value in short(each.values).items())
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(range(len(axes))),
        "y": [round(axis.places[at], 4) for axis in axes],
        "line": {"color": colour, "width": width, "shape": "spline", "smoothing": 0.6},
        "hovertemplate": f"trial {each.number}: {_safe(words)}<extra></extra>",
    }
