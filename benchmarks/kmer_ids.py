"""Bases a second on one core: ids of k-mers beside a plain numpy version, a loop over k-mers, and a memory copy.

The loop for exact ids makes each k-mer a number and takes the smaller of both strands. The loop for hashes is that
of LSHvec's script: a complex vector for each k-mer and each strand, and its product with the planes. numpy does the
same for all k-mers at once. Processor time of one thread, so that other work on the machine counts less. The copy is
that of the ids that came out, into fresh memory as the ids have it too.
`make bench NAME=kmer_ids`, or with a number of bases: `python benchmarks/kmer_ids.py 100000`
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import pyarrow as pa
from numpy.lib.stride_tricks import sliding_window_view

from penstock.models import planes
from penstock.models.kmers import Letters, Seeds

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "genomes"))
from reads import genomes

TURNS, LOOP_BASES, READ = 7, 5_000, 10_000
CODE = {"A": 0, "C": 1, "G": 2, "T": 3}
POINT = {"A": -1, "T": 1, "C": -1j, "G": 1j}


def loop_exact(text: str, k: int) -> list[int]:
    found = []
    for at in range(len(text) - k + 1):
        forward = backward = 0
        for base in text[at : at + k]:
            forward = 4 * forward + CODE[base]
        for base in reversed(text[at : at + k]):
            backward = 4 * backward + 3 - CODE[base]
        found.append(min(forward, backward))
    return found


def loop_hash(text: str, normals: np.ndarray, offsets: np.ndarray) -> list[int]:
    """``normals``: complex, ``"bit base"``."""
    k, powers = normals.shape[1], 2 ** np.arange(len(normals))
    conjugate, found = normals.conj(), []
    for at in range(len(text) - k + 1):
        point = np.array([POINT[base] for base in text[at : at + k]])
        both = [int(powers[(conjugate @ strand).real - offsets > 0].sum()) for strand in (point, -point[::-1])]
        found.append(min(both))
    return found


def numpy_exact(codes: np.ndarray, k: int) -> np.ndarray:
    """``codes``: int64, ``"base"``, of one sequence."""
    forward, backward = (np.zeros(len(codes) - k + 1, np.int64) for _ in range(2))
    for at in range(k):
        here = codes[at : at + len(forward)]
        forward = forward << 2 | here
        backward |= (3 - here) << 2 * at
    return np.minimum(forward, backward)


def numpy_hash(points: np.ndarray, normals: np.ndarray, offsets: np.ndarray, chunk: int = 65536) -> np.ndarray:
    powers, windows, found = 2 ** np.arange(len(normals)), sliding_window_view(points, normals.shape[1]), []
    for at in range(0, len(windows), chunk):
        some = windows[at : at + chunk]
        both = [((strand @ normals.conj().T).real - offsets > 0) @ powers for strand in (some, -some[:, ::-1])]
        found.append(np.minimum(*both))
    return np.concatenate(found)


def nanoseconds_a_base(action: Callable[[], Any], bases: int) -> float:
    started = time.thread_time()
    action()
    return (time.thread_time() - started) * 1e9 / bases


def compared(name: str, ways: dict[str, tuple[Callable[[], Any], int]]) -> dict[str, Any]:
    """Each way with the bases that it does, the quick ones first done once to be compiled."""
    for action, _ in ways.values():
        action()
    found = measuring.turns({way: partial(nanoseconds_a_base, *what) for way, what in ways.items()}, TURNS)
    median = {way: measuring.spread(values)["median"] for way, values in found.items()}
    return {
        "nanoseconds_a_base": {way: measuring.spread(values) for way, values in found.items()},
        "bases_a_second": {way: round(1e9 / value) for way, value in median.items()},
        "times_faster_than_the_loop": round(median["loop"] / median["penstock"], 1),
        "times_faster_than_numpy": round(median["numpy"] / median["penstock"], 2),
        "times_the_time_of_a_copy": round(median["penstock"] / median["copy"], 2),
        "name": name,
    }


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 8_000_000
    whole = "".join(genomes().values())
    whole = (whole * (wanted // len(whole) + 1))[:wanted]
    letters = Letters.of(pa.chunked_array([[whole[at : at + READ] for at in range(0, wanted, READ)]]))
    codes = np.searchsorted(np.frombuffer(b"ACGT", np.uint8), letters.values).astype(np.int64)
    points, few = np.array([-1, -1j, 1j, 1])[codes], whole[:LOOP_BASES]
    result: dict[str, Any] = {}
    for k in (15, 31):
        seeds = Seeds.plain(k)
        if numpy_exact(codes[:READ], k).tolist() != seeds.ids(letters)[0][: READ - k + 1].tolist():
            raise SystemExit(f"k = {k}: the ways disagree")
        ids = seeds.ids(letters)[0]
        result[f"exact, k = {k}"] = compared(
            f"exact {k}",
            {
                "penstock": (partial(seeds.ids, letters), wanted),
                "copy": (ids.copy, wanted),
                "numpy": (partial(numpy_exact, codes, k), wanted),
                "loop": (partial(loop_exact, few, k), len(few)),
            },
        )
    fitted = planes.fit(letters, 23, 22)
    normals = (fitted.normals[..., 0] + 1j * fitted.normals[..., 1]).astype(complex)
    some = points[: wanted // 8]
    ids = fitted.ids(letters)[0]
    if loop_hash(few, normals, fitted.offsets) != ids[: len(few) - 22].tolist():
        raise SystemExit("the hashes disagree")
    result["LSH, k = 23, 22 bits"] = compared(
        "hash",
        {
            "penstock": (partial(fitted.ids, letters), wanted),
            "copy": (ids.copy, wanted),
            "numpy": (partial(numpy_hash, some, normals, fitted.offsets), len(some)),
            "loop": (partial(loop_hash, few, normals, fitted.offsets), len(few)),
        },
    )
    measuring.write("kmer_ids", {"bases": wanted, "turns": TURNS, "a_sequence_bases": READ, "ways": result})


if __name__ == "__main__":
    main()
