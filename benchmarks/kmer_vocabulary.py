"""Why tables of k-mers outgrow a machine: distinct k-mers of the example genomes beside distinct words of English.

The words are those of the documentation that NumPy and SciPy carry in their docstrings (lower case, letters alone).
Both are counted while the text grows; and for each k what a table takes at 100 float32 numbers a row: for the k-mers
that were seen, and for all that there are. One new k-mer in each window is what sequencing errors add: reads of the
genomes with 5 % errors are counted too.
`make bench NAME=kmer_vocabulary`; needs plotly for the plot in results/kmer_vocabulary.png.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import pyarrow as pa

from penstock.models.kmers import Letters, Seeds

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "genomes"))
from reads import genomes, simulate

KS, DIM, STEPS = tuple(range(3, 32, 2)), 100, 12


def words() -> list[str]:
    """The words of all docstrings of NumPy and SciPy, in a fixed order."""
    texts: dict[str, None] = {}
    warnings.simplefilter("ignore")
    for package in ("numpy", "scipy"):
        root = importlib.import_module(package)
        names = sorted(
            info.name for info in pkgutil.iter_modules(root.__path__, f"{package}.") if "._" not in info.name
        )
        for name in [package, *names]:
            try:
                module = importlib.import_module(name)
            except ImportError:
                continue
            for _, member in sorted(vars(module).items(), key=lambda pair: pair[0]):
                texts[inspect.getdoc(member) or ""] = None
    return [word for text in texts for word in re.findall(r"[a-z]+", text.lower())]


def distinct(ids: np.ndarray) -> int:
    ids = np.sort(ids)  # several times as fast as np.unique
    return len(ids) and 1 + int(np.count_nonzero(ids[1:] != ids[:-1]))


def kmers(texts: list[str], k: int) -> np.ndarray:
    return Seeds.plain(k).ids(Letters.of(pa.chunked_array([texts])))[0]


def growth(ids: np.ndarray) -> list[tuple[int, int]]:
    """How many are distinct among the first so many."""
    cuts = np.unique(np.geomspace(1000, len(ids), STEPS).astype(int))
    return [(int(cut), distinct(ids[:cut])) for cut in cuts]


def possible(k: int) -> int:
    """Canonical k-mers; a k-mer of even length may be its own reverse complement."""
    return (4**k + (0 if k % 2 else 4 ** (k // 2))) // 2


def table(texts: list[str], noisy: list[str]) -> list[dict[str, Any]]:
    found = []
    for k in KS:
        seen, with_errors = distinct(kmers(texts, k)), distinct(kmers(noisy, k))
        sizes = {"seen": seen, "seen_in_noisy_reads": with_errors, "possible": possible(k)}
        found.append({"k": k, **sizes, **{f"{name}_table_bytes": 4 * DIM * count for name, count in sizes.items()}})
    return found


def plot(result: dict[str, Any], path: Path) -> None:
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 2, subplot_titles=("Distinct among the first n", f"Table bytes, {DIM} float32 a row"))
    for name, points in result["growth"].items():
        figure.add_scatter(x=[p[0] for p in points], y=[p[1] for p in points], name=name, row=1, col=1)
    rows = result["tables"]
    for name in ("seen", "seen_in_noisy_reads", "possible"):
        values = [row[f"{name}_table_bytes"] for row in rows]
        figure.add_scatter(
            x=[row["k"] for row in rows], y=values, name=f"k-mers {name.replace('_', ' ')}", row=1, col=2
        )
    for name, value in (("English words seen", 4 * DIM * result["words"]["distinct"]), ("64 GiB", 64 << 30)):
        line = {"dash": "dot"}
        figure.add_scatter(x=[KS[0], KS[-1]], y=[value] * 2, name=name, mode="lines", line=line, row=1, col=2)
    figure.update_xaxes(type="log", title="n", row=1, col=1)
    figure.update_xaxes(title="k", row=1, col=2)
    figure.update_yaxes(type="log")
    figure.update_layout(template="plotly_white", width=1100, height=440, margin={"t": 40, "b": 50, "l": 60, "r": 20})
    measuring.picture(figure, path)


def main() -> None:
    sequences, text = list(genomes().values()), words()
    noisy = [read for _, read in simulate(genomes(), reads=200, length=1000, error=0.05)]
    numbers = np.unique(np.array(text), return_inverse=True)[1]
    result = {
        "bases": sum(map(len, sequences)),
        "noisy_bases": sum(map(len, noisy)),
        "words": {"total": len(text), "distinct": distinct(numbers)},
        "growth": {
            "English words": growth(numbers),
            **{f"{k}-mers": growth(kmers(sequences, k)) for k in (7, 11, 15, 31)},
        },
        "tables": table(sequences, noisy),
    }
    measuring.write("kmer_vocabulary", result)
    plot(result, measuring.RESULTS / "kmer_vocabulary.png")


if __name__ == "__main__":
    main()
