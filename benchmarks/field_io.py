"""Fields of OpenFOAM to and from files: 200,000 vectors, 4.8 MB, in one process, in turn.

Beside numpy's `tofile` and `fromfile` of the same numbers without a header, which no format can beat by much, and
beside foamlib, the Python library for these files. Every file is a new one, as those of a run are: writing over an
old one saves `tofile` the making of pages, and then a reader may see half of each. The files are in memory (page
cache): no disk is measured.

`make bench NAME=field_io`; ``VECTORS=2000 TURNS=2`` in the environment tries it out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import measuring
import numpy as np
from foamlib import FoamFieldFile

from penstock.formats.openfoam import VELOCITY, Field, read_field, write_field

VECTORS = int(os.environ.get("VECTORS", "200000"))
TURNS = int(os.environ.get("TURNS", "15"))
PATCHES = {"walls": {"type": "noSlip"}}


def raw_read(path: Path) -> np.ndarray:
    return np.fromfile(path).reshape(-1, 3)


def written_by_foamlib(path: Path, values: np.ndarray, form: str) -> None:
    with FoamFieldFile(path) as file:
        file.format = form
        file["FoamFile", "class"] = "volVectorField"
        file.dimensions = list(VELOCITY)
        file.internal_field = values
        file.boundary_field = {"walls": {"type": "noSlip"}}


def timed(way: Callable[[], object], target: Path | None) -> Callable[[], float]:
    """Seconds of *way*; the file that it makes is not there before."""

    def once() -> float:
        if target is not None:
            target.unlink(missing_ok=True)
        return measuring.seconds(way)

    return once


def ways(folder: Path, values: np.ndarray) -> dict[str, tuple[Callable[[], object], Path | None]]:
    """What is done, and the file that it makes."""
    field = Field(values, VELOCITY, PATCHES)
    ours, raw, theirs = folder / "U", folder / "raw", folder / "V"
    return {
        "write: tofile": (lambda: values.tofile(raw), raw),
        "write: penstock": (lambda: write_field(ours, field), ours),
        "write: foamlib": (lambda: written_by_foamlib(theirs, values, "binary"), theirs),
        "read: fromfile": (lambda: raw_read(raw), None),
        "read: penstock": (lambda: read_field(ours).internal, None),
        "read: foamlib": (lambda: np.asarray(FoamFieldFile(ours).internal_field), None),
    }


def ratios(times: dict[str, list[float]], verb: str, over: str) -> dict[str, float]:
    """Our rate over another's, turn by turn."""
    pairs = zip(times[f"{verb}: {over}"], times[f"{verb}: penstock"], strict=True)
    return measuring.spread([theirs / ours for theirs, ours in pairs])


def main() -> None:
    values = np.random.default_rng(0).standard_normal((VECTORS, 3))
    with tempfile.TemporaryDirectory() as name:
        todo = ways(Path(name), values)
        clocks = {name: timed(*way) for name, way in todo.items()}
        measuring.turns(clocks, 1)  # warms up
        times = measuring.turns(clocks, TURNS)
        for reading in ("read: penstock", "read: foamlib", "read: fromfile"):
            assert np.array_equal(todo[reading][0](), values), reading
    pairs = (("write", "tofile"), ("write", "foamlib"), ("read", "fromfile"), ("read", "foamlib"))
    over = {f"{verb} over {peer}": ratios(times, verb, peer) for verb, peer in pairs}
    bars = {"write over tofile": 0.8, "read over fromfile": 0.8}
    result = {
        "vectors": VECTORS,
        "bytes": values.nbytes,
        "turns": TURNS,
        "megabytes_a_second": {
            name: measuring.spread([values.nbytes / each / 1e6 for each in found]) for name, found in times.items()
        },
        "rate": over,
        "bars": bars,
        "reached": {name: over[name]["median"] >= bar for name, bar in bars.items()},
    }
    measuring.write("field_io", result)


if __name__ == "__main__":
    main()
