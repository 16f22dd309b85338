"""How large requests and batches are."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["TOKENS", "Size", "size_of"]

TOKENS = "input_ids"
"""The column whose lists are counted as tokens."""


@dataclass(frozen=True)
class Size:
    """Rows, bytes in memory, and tokens; as a limit, 0 stands for none."""

    rows: int = 0
    bytes: int = 0
    tokens: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.rows + other.rows, self.bytes + other.bytes, self.tokens + other.tokens)

    def excess(self, limit: Size) -> str:
        """What is above *limit*, in words; empty when all fits."""
        pairs = ((name, getattr(self, name), getattr(limit, name)) for name in ("rows", "bytes", "tokens"))
        return next((f"{found:,} {name}, at most {most:,}" for name, found, most in pairs if 0 < most < found), "")

    def fits(self, limit: Size) -> bool:
        """Whether nothing is above *limit*."""
        return not self.excess(limit)


def size_of(batch: pa.Table) -> Size:
    """The size of *batch*; tokens are counted where there is a column of token ids."""
    if TOKENS not in batch.column_names:
        return Size(batch.num_rows, batch.nbytes)
    return Size(batch.num_rows, batch.nbytes, pc.sum(pc.list_value_length(batch[TOKENS])).as_py() or 0)
