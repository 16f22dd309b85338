"""A stage of one's own: the mean hydropathy of each protein, after Kyte and Doolittle.

Kyte, J. and Doolittle, R. F. (1982), J. Mol. Biol. 157, 105-132, table 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from penstock.core.batch import adding, field_of, with_columns
from penstock.core.nouns import Batch, Transform

SCALE = dict(
    zip(
        "ARNDCQEGHILKMFPSTWYV",
        (
            1.8,
            -4.5,
            -3.5,
            -3.5,
            2.5,
            -3.5,
            -3.5,
            -0.4,
            -3.2,
            4.5,
            3.8,
            -3.9,
            1.9,
            2.8,
            -1.6,
            -0.8,
            -0.7,
            -0.9,
            -1.3,
            4.2,
        ),
        strict=True,
    )
)
"""Hydropathy of each amino acid; positive ones avoid water."""


@dataclass(frozen=True)
class Hydropathy:
    """Adds ``hydropathy``, float32: the mean over the residues of a sequence.

    Attributes:
        column: the sequences, in capital letters.
    """

    column: str = "sequence"

    def schema(self, given: pa.Schema) -> pa.Schema:
        """*given* with ``hydropathy``. Raises `SchemaError` without the sequences."""
        field_of(given, self.column, "hydropathy", pa.string())
        return adding(given, {"hydropathy": pa.float32()})

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Make the look-up table: one value for each byte, not a number for what is no amino acid."""
        table = np.full(256, np.nan, np.float32)
        for letter, value in SCALE.items():
            table[ord(letter)] = value

        def transform(batch: Batch) -> Batch:
            means = [_mean(table, text) for text in batch[self.column].to_pylist()]
            return with_columns(batch, {"hydropathy": pa.array(means, pa.float32())})

        yield transform


def _mean(table: np.ndarray, text: str) -> float:
    """The mean over a sequence; a letter that is no amino acid makes the row bad, and only this row."""
    values = table[np.frombuffer(text.encode(), np.uint8)]
    if np.isnan(values).any():
        letter = text[int(np.isnan(values).argmax())]
        raise ValueError(f"'{letter}' is none of the 20 amino acids")
    return float(values.mean())
