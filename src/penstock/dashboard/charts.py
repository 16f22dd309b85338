"""Plots as inline SVG, drawn here, so that a page needs no script for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Chart", "Tick", "bars", "course", "pace"]

WIDTH, HEIGHT = 560, 220
WIDE = 1150
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 40
_BINS = 40
PACE_SECONDS = 600
_PACE_BINS = 60


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, in pixels, and what is written there."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A filled course over an axis.

    Attributes:
        key: its name in the page; the live JSON brings new paths under it.
        title: what it answers.
        caption: how to read it.
        path: of the course, closed, as SVG has it.
        across, up: the ticks of both axes.
        x, y: what they are called.
    """

    key: str
    title: str
    caption: str
    path: str
    across: Sequence[Tick]
    up: Sequence[Tick]
    x: str
    y: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    top: int = _TOP
    foot: int = HEIGHT - _BOTTOM

    @property
    def right(self) -> int:
        """Where the course ends."""
        return self.width - _RIGHT


def _drawn(
    key: str,
    words: tuple[str, str, str, str],
    edges: npt.NDArray[np.float64],
    heights: npt.NDArray[np.float64],
    width: int = WIDTH,
) -> Chart:
    """Steps of *heights*, "bin", between *edges*, "bin+1"; words are title, caption and what the axes are called."""
    title, caption, x, y = words
    low, high = float(edges[0]), float(edges[-1])
    top = float(heights.max(initial=0.0)) or 1.0

    def across(value: float) -> float:
        return _LEFT + (value - low) / ((high - low) or 1.0) * (width - _LEFT - _RIGHT)

    def up(value: float) -> float:
        return HEIGHT - _BOTTOM - value / (1.05 * top) * (HEIGHT - _TOP - _BOTTOM)

    corners = [f"{across(edge):.1f},{up(value):.1f}" for edge, value in _corners(edges, heights)]
    path = f"M{across(low):.1f},{up(0):.1f}L{'L'.join(corners)}L{across(high):.1f},{up(0):.1f}Z"
    xs = [Tick(round(across(value), 1), _text(value)) for value in _nice(low, high, 6)]
    ys = [Tick(round(up(value), 1), _text(value)) for value in _nice(0.0, top, 4)]
    return Chart(key, title, caption, path, xs, ys, x, y, width)


def _corners(edges: npt.NDArray[np.float64], heights: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    pairs = zip(edges[:-1], edges[1:], heights, strict=True)
    return [corner for left, right, height in pairs for corner in ((left, height), (right, height))]


def _nice(low: float, high: float, most: int) -> list[float]:
    """Round numbers from *low* to *high*, about *most* of them."""
    rough = (high - low) / most or 1.0
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    return [at * step for at in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _text(value: float) -> str:
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}").replace("-", "\N{MINUS SIGN}")


def course(key: str, seconds: Sequence[float], rows: Sequence[float], caption: str) -> Chart:
    """Rows a second over the time of a run; *rows* has one more entry than bins, as a plot of steps has it."""
    words = ("How fast did the last run go?", caption, "seconds since the start", "rows/s")
    return _drawn(key, words, np.asarray(seconds, float), np.asarray(rows[:-1], float))


def bars(key: str, title: str, caption: str, values: npt.NDArray[np.float64]) -> Chart:
    """How often each size occurs among *values*, "row"."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(high), 1.0):  # all the same but for rounding
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(values, bins=min(_BINS, max(8, len(values) // 5)), range=(low, high))
    return _drawn(key, (title, caption, "norm", "rows"), edges, counts.astype(float))


def pace(key: str, times: Sequence[float], share: float, now: float) -> Chart:
    """Units that were finished in the last ten minutes.

    Args:
        key: its name.
        times: when units were finished, seconds since 1970.
        share: units for each time that is known.
        now: where the axis ends.
    """
    ages = np.asarray([when - now for when in times if when > now - PACE_SECONDS])
    counts, edges = np.histogram(ages, bins=_PACE_BINS, range=(-PACE_SECONDS, 0))
    seconds = PACE_SECONDS / _PACE_BINS
    words = (
        "How fast does it go?",
        f"Units finished in the last ten minutes, {seconds:.0f} s a step.",
        "minutes",
        "units/s",
    )
    return _drawn(key, words, edges / 60, counts * share / seconds, WIDE)
