"""Bags of rows summed while they lie in the cache of the core: no bag's rows are ever all in memory.

Every bag is summed row by row in its order, whatever bags stand beside it, so its bits depend on nothing else; they
are those of `torch.nn.EmbeddingBag`.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from typing import Literal, TypeAlias, cast

import numpy as np

from penstock.tables.layout import Floats
from penstock.tables.schemes import Ints

__all__ = ["Gather", "Mode", "averaged", "checked", "faster", "fused_of", "summed"]

Gather: TypeAlias = Callable[[Ints, Floats], None]
"""Puts the vectors of some ids, ``"id"``, into an array, ``"id dim"``."""

Mode: TypeAlias = Literal["mean", "sum"]

_BLOCK_BYTES = 256 << 10
_MANY_SHORT = 12
"""Bags of fewer rows than this on average are summed side by side: a call of NumPy costs as much as so many rows."""


def checked(offsets: Ints, count: int) -> Ints:
    """Offsets as they are used: ``"bag + 1"``, rising from 0 to the number of ids.

    Raises:
        ValueError: they are not.
    """
    offsets = np.asarray(offsets, np.int64)
    if offsets.ndim != 1 or not len(offsets) or offsets[0] or offsets[-1] != count or (np.diff(offsets) < 0).any():
        raise ValueError(
            f"offsets must rise from 0 to the number of ids, {count}; these are {offsets[:3]}...{offsets[-3:]}"
        )
    return offsets


def summed(gather: Gather, ids: Ints, offsets: Ints, dim: int) -> Floats:
    """The sum of each bag's vectors, ``"bag dim"``; an empty bag is zeros.

    Args:
        gather: where vectors come from.
        ids: of all bags, one behind the other, ``"id"``.
        offsets: where each bag begins, and where the last one ends, ``"bag + 1"``.
        dim: numbers in a vector.
    """
    found = np.zeros((len(offsets) - 1, dim), np.float32)
    size = max(16, _BLOCK_BYTES // (4 * dim))
    buffer = np.empty((size + 1, dim), np.float32)
    for start in range(0, len(ids), size):
        stop = min(start + size, len(ids))
        gather(ids[start:stop], buffer[1 : 1 + stop - start])
        first, last = np.searchsorted(offsets, start, "right") - 1, np.searchsorted(offsets, stop, "left")
        cuts = np.clip(offsets[first : last + 1], start, stop) - start + 1
        if offsets[first] < start:  # goes on with what the blocks before have summed
            buffer[0], cuts[0] = found[first], 0
        _reduce(buffer, cuts, found[first:last])
    return found


def _reduce(buffer: Floats, cuts: Ints, found: Floats) -> None:
    """Sum the rows of *buffer* between neighbouring *cuts* into *found*."""
    if buffer.shape[1] > 1 and cuts[-1] - cuts[0] < _MANY_SHORT * len(found):
        return _side_by_side(buffer, cuts, found)
    for at, (start, stop) in enumerate(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)):
        if start < stop:
            np.add.reduce(buffer[start:stop], axis=0, out=found[at])
    return None


def _side_by_side(buffer: Floats, cuts: Ints, found: Floats) -> None:
    """The first rows of all bags, plus their second rows, and so on; long bags come first and stay longest."""
    lengths = np.diff(cuts)
    order = np.argsort(-lengths, kind="stable")
    starts, counts = cuts[:-1][order], np.searchsorted(-lengths[order], -np.arange(lengths.max(initial=0)), "left")
    if not len(counts):
        return
    sums = buffer[starts[: counts[0]]]
    for step, count in enumerate(counts[1:], 1):
        sums[:count] += buffer[starts[:count] + step]
    found[order[: counts[0]]] = sums


def faster() -> None:
    """Load torch where it is installed: it sums rows two to four times as fast, for some 200 MB of memory."""
    if importlib.util.find_spec("torch"):
        importlib.import_module("torch")


def fused_of(rows: Floats) -> Callable[[Ints, Ints], Floats] | None:
    """`summed` over float32 *rows*, ``"row dim"``, by torch, where this process has it loaded.

    Its kernel adds row after row too, and asks for the next rows from memory while it adds, so the bits are the same.
    """
    torch = sys.modules.get("torch")
    if torch is None or rows.shape[1] == 1:
        return None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nobody writes to it
        weight = torch.from_numpy(rows)

    def fused(ids: Ints, offsets: Ints) -> Floats:
        with torch.inference_mode():
            given = torch.from_numpy(np.ascontiguousarray(ids)), torch.from_numpy(np.ascontiguousarray(offsets))
            found = torch.embedding_bag(weight, *given, mode=0, include_last_offset=True)[0]
        return cast("Floats", found.numpy())

    return fused


def averaged(sums: Floats, offsets: Ints, mode: Mode) -> Floats:
    """Sums as they are asked for: ``mean`` divides each bag by its length; an empty bag stays zeros."""
    if mode == "mean":
        sums /= np.maximum(np.diff(offsets), 1).astype(np.float32)[:, None]
    return sums
