"""The page of a search: which trials there were, how they went, and which was the best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penstock.core.spec import Tune
from penstock.report import plots
from penstock.report.page import written
from penstock.trainings.search import Ended, short

__all__ = ["build"]


def build(ended: Sequence[Ended], winner: Ended, tune: Tune, out: Path, file: str) -> Path:
    """Write the page, one HTML file that needs no network.

    Raises:
        PenstockError: a package of ``penstock[report]`` is missing.
    """
    sign = -1 if tune.mode == "max" else 1
    page = {
        "title": f"Search for {tune.train}",
        "file": file,
        "tune": tune,
        "winner": winner,
        "best": short(winner.values),
        "ended": sorted(ended, key=lambda each: (not each.lines, sign * each.last(tune.metric), each.number)),
        "figures": [plots.parallel_axes(ended, winner, tune.metric), plots.trial_curves(ended, winner, tune.metric)],
    }
    return written(out, "search.html", page)
