"""The page of a judgement: fields drawn beside true ones, spectra, correlations, densities, and every figure."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.flows import operators
from penstock.flows.judging import SEPARATIONS, Judgement, Sample
from penstock.flows.steadiness import Course, Steady
from penstock.report.page import written
from penstock.report.plots import BLUE, GREEN, GREY, RED, Figure

__all__ = ["build", "coloured", "png"]

Pixels = npt.NDArray[np.uint8]

_DRAWN = 4
_FINER = 3
_LOOKS = ((RED, "solid"), (BLUE, "solid"), (GREY, "dash"), (GREEN, "dot"))
_DIVERGING = ((0.35, -0.02, -0.12), (0.62, -0.04, -0.12), (0.97, 0.0, 0.0), (0.62, 0.13, 0.08), (0.35, 0.10, 0.05))
"""Blue, white, red in Oklab: equal steps of a value are equal steps of lightness, the same ones on both sides."""
_RISING = ((0.15, 0.0, -0.05), (0.40, 0.0, -0.12), (0.65, -0.10, -0.01), (0.92, -0.03, 0.15))


# --- images ----------------------------------------------------------------------------------------------


def coloured(values: npt.NDArray[Any], stops: Sequence[tuple[float, float, float]]) -> Pixels:
    """Numbers from 0 to 1 as sRGB, ``"y x 3"``, along *stops* in Oklab; others take the nearer end.

    Source: Ottosson, https://bottosson.github.io/posts/oklab/
    """
    at = np.clip(values, 0, 1) * (len(stops) - 1)
    lab = np.stack([np.interp(at, np.arange(len(stops)), part) for part in zip(*stops, strict=True)], -1)
    cones = (lab @ _TO_CONES.T) ** 3
    linear = np.clip(cones @ _TO_LINEAR.T, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * curved), np.uint8)


_TO_CONES = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_TO_LINEAR = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def png(pixels: Pixels) -> bytes:
    """An image, ``"y x 3"``, as PNG (https://www.w3.org/TR/png-3/)."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], 1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _finer(field: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """*field* on a grid so many times finer, by its own Fourier series; y upwards."""
    n = field.shape[-1]
    hat, wide = operators.forward(field), np.zeros((_FINER * n, _FINER * n // 2 + 1), complex)
    for rows in (slice(0, n // 2), slice(-n // 2 + 1, None)):
        wide[rows, : n // 2] = hat[rows, : n // 2]
    return operators.backward(wide)[::-1]


def _address(field: npt.NDArray[Any], low: float, high: float, stops: Any) -> str:
    """A field as an image inside the page."""
    data = png(coloured((_finer(field) - low) / (high - low), stops))
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@dataclass(frozen=True)
class _Strip:
    """Some fields of one sample."""

    name: str
    vorticity: Sequence[str]
    speed: Sequence[str]


def _strips(samples: Sequence[Sample]) -> tuple[list[_Strip], float, float]:
    """The images, and what their darkest colours mean: the same for all."""
    flows = [np.asarray(each.velocity[:: -(-len(each) // _DRAWN)][:_DRAWN], np.float64) for each in samples]
    whirls, speeds = [operators.vorticity(flow) for flow in flows], [np.hypot(f[:, 0], f[:, 1]) for f in flows]
    truth = min(1, len(samples) - 1)
    most, fast = float(np.quantile(abs(whirls[truth]), 0.995)), float(np.quantile(speeds[truth], 0.995))
    strips = [
        _Strip(
            each.name,
            [_address(field, -most, most, _DIVERGING) for field in whirl],
            [_address(field, 0, fast, _RISING) for field in speed],
        )
        for each, whirl, speed in zip(samples, whirls, speeds, strict=True)
    ]
    return strips, most, fast


# --- curves ----------------------------------------------------------------------------------------------


def _curve(name: str, at: int, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> dict[str, Any]:
    colour, dash = _LOOKS[min(at, len(_LOOKS) - 1)]
    kept = np.isfinite(y) & (y != 0)
    line = {"color": colour, "dash": dash, "width": 2.5 if at == 0 else 2}
    numbers = {"x": x[kept].tolist(), "y": [float(f"{value:.5g}") for value in y[kept]]}
    return {"type": "scatter", "mode": "lines", "name": name, "line": line, **numbers}


def _layout(x: str, y: str, **more: Any) -> dict[str, Any]:
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    axes = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
    return {**axes, "legend": legend, "showlegend": True, **more}


_OCTAVES = {"dtick": None, "tickvals": [1, 2, 4, 8, 16, 32, 64], "ticktext": ["1", "2", "4", "8", "16", "32", "64"]}


def _log(layout: dict[str, Any], axis: str, **more: Any) -> dict[str, Any]:
    power = {"type": "log", "exponentformat": "power", "dtick": 1}
    return {**layout, axis: {**layout[axis], **power, **more}}


def _figures(found: Judgement) -> list[Figure]:
    portraits = found.portraits
    n = 2 * len(next(iter(portraits.values())).correlation) - 2
    shells = np.arange(1, operators.cut(n))
    spectra = [_curve(name, at, shells, p.spectrum[shells]) for at, (name, p) in enumerate(portraits.items())]
    truth = portraits[found.truth].spectrum[shells]
    ratios = [_curve(name, at, shells, p.spectrum[shells] / truth) for at, (name, p) in enumerate(portraits.items())]
    lags = 2 * np.pi * np.arange(n // 2 + 1) / n
    correlations = [_curve(name, at, lags, p.correlation) for at, (name, p) in enumerate(portraits.items())]
    energy = _log(_log(_layout("wave number k", "E(k)"), "yaxis"), "xaxis", **_OCTAVES)
    ratio = {**_layout("wave number k", "E(k) by the truth's")}
    ratio["yaxis"] = {**ratio["yaxis"], "range": [0, 2]}
    return [
        Figure("spectrum", "Is the energy on the right scales?", "Mean energy of each shell.", spectra, energy),
        Figure("ratio", "How far off is each scale?", "The same by the truth's; 1 is right.", ratios, ratio),
        Figure(
            "correlation",
            "How far do eddies reach?",
            "Correlation of the velocity along itself with a point r away (longitudinal); the box has the side 6.28.",
            correlations,
            _layout("distance r", "correlation"),
        ),
        _densities("vorticity", "How strong are the eddies?", "vorticity", portraits, None),
        *(
            _densities(
                f"increment{r}", f"How does the velocity differ {r} grid points away?", "difference", portraits, at
            )
            for at, r in enumerate(SEPARATIONS[: len(portraits[found.truth].flatness)])
        ),
    ]


def _densities(key: str, title: str, what: str, portraits: Mapping[str, Any], at: int | None) -> Figure:
    data = [
        _curve(name, number, p.bins, p.vorticity if at is None else p.increments[at])
        for number, (name, p) in enumerate(portraits.items())
    ]
    layout = _log(_layout(f"{what} in standard deviations", "probability density"), "yaxis", range=[-4.5, 0.2])
    return Figure(key, title, "On a logarithmic scale, so that the rare strong ones are seen.", data, layout)


# --- the way to the steady state -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Start:
    """How an ensemble came to the steady state: its name, its members, and the steps that it took, if it did."""

    name: str
    members: int
    steps: int | None


@dataclass(frozen=True)
class _Way:
    """The section about it."""

    starts: Sequence[_Start]
    band: float
    held_steps: int
    seen_steps: int
    figures: Sequence[Figure]


def _way(steady: Steady, courses: Sequence[Course]) -> _Way | None:
    if not courses:
        return None
    starts = [_Start(course.name, course.members, steady.reached(course)) for course in courses]
    held = round(2 * steady.turnover_seconds / courses[0].step_seconds)
    return _Way(starts, steady.band, held, int(courses[0].steps[-1]), _courses(steady, courses))


def _courses(steady: Steady, courses: Sequence[Course]) -> list[Figure]:
    percent, steps = f"{100 * steady.band:g} %", "time steps of the solver"
    return [
        Figure(
            "distance",
            "How far from the steady state is a solver?",
            f"Mean kinetic energy or enstrophy, whichever is farther off; steady is what stays in the band, {percent}.",
            [_curve(c.name, at, c.steps, steady.distance(c)) for at, c in enumerate(courses)],
            {**_log(_layout(steps, "relative deviation"), "yaxis", range=[-3, 1]), **_banded(1e-3, steady.band)},
        ),
        Figure(
            "energy",
            "Where does the energy settle?",
            "Mean kinetic energy by that of the steady flow; 1 is right.",
            [_curve(c.name, at, c.steps, c.energy / steady.energy) for at, c in enumerate(courses)],
            {**_layout(steps, "kinetic energy by the truth's"), **_banded(1 - steady.band, 1 + steady.band)},
        ),
        Figure(
            "shells",
            "When are all scales right?",
            "Relative deviation of E(k) in the worst shell; it is never nothing, as the members are few.",
            [_curve(c.name, at, c.steps, steady.spectrum_error(c)) for at, c in enumerate(courses)],
            _log(_layout(steps, "worst shell"), "yaxis"),
        ),
    ]


def _banded(low: float, high: float) -> dict[str, Any]:
    """The band, shaded."""
    box = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": low, "y1": high}
    return {"shapes": [{**box, "fillcolor": BLUE, "opacity": 0.12, "line": {"width": 0}, "layer": "below"}]}


# --- the page --------------------------------------------------------------------------------------------


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1e}" if 0 < value < 1e-3 else f"{value:.3f}"


def build(found: Judgement, samples: Sequence[Sample], out: Path, title: str, courses: Sequence[Course] = ()) -> Path:
    """Write the page, one HTML file that needs no network.

    Args:
        found: the judgement.
        samples: the fields themselves, in its order: generated, true, baseline.
        out: the HTML file.
        title: its head.
        courses: of solvers that started from such fields and from others.

    Raises:
        PenstockError: a package of ``penstock[report]`` is missing.
    """
    strips, most, fast = _strips(samples)
    rows = [
        (line.name, line.meaning, [_shown(line.values.get(name)) for name in found.samples]) for line in found.lines
    ]
    page = {
        "title": title,
        "truth": found.truth,
        "samples": found.samples,
        "strips": strips,
        "most": most,
        "fast": fast,
        "rows": rows,
        "figures": _figures(found),
        "way": _way(Steady.of(next(each for each in samples if each.name == found.truth).velocity), courses),
    }
    return written(out, "flow.html", page)
