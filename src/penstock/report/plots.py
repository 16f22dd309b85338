"""Plots as plain data for Plotly (https://plotly.com/javascript/reference/); pure functions.

What the reader's light or dark scheme decides (text, grid, background) is left to the page.
Colours are Paul Tol's *bright* scheme, safe for colour-blind readers (https://sronpersonalpages.nl/~pault/);
past its six colours the shape of the marker changes too.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.report.measures import Agreement
from penstock.report.story import Run, StepStory

__all__ = [
    "Figure",
    "agreement_curves",
    "busy_shares",
    "cross_map",
    "eigenvalue_curve",
    "peak_memory",
    "scatter",
    "step_seconds",
    "throughput",
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


def peak_memory(key: str, traces: pa.Table) -> Figure:
    """The highest resident memory of each worker."""
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
