"""Take columns out of a text by a pattern, such as the gene out of a FASTA header."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.core.batch import adding, field_of, pick, with_columns
from penstock.core.nouns import Batch, Transform
from penstock.errors import RowErrors

__all__ = ["Extract"]


@dataclass(frozen=True)
class Extract:
    r"""Make each named group of a pattern a column of texts.

    The syntax is RE2 (https://github.com/google/re2/wiki/Syntax), whose time is linear in the text whatever the
    pattern: no look-around and no back references. The first place where it matches counts; an optional group
    that takes no part gives an empty text.

    Attributes:
        pattern: with groups such as ``GN=(?P<gene>\S+)``; all groups are named, ``(?:...)`` are not counted.
        column: the text that is searched.
        missing: what happens to a row without a match, or without a text: it is quarantined, dropped and counted,
            or kept with empty texts.
    """

    pattern: str
    column: str = "description"
    missing: Literal["quarantine", "drop", "keep"] = "quarantine"

    def __post_init__(self) -> None:
        if not self._groups():
            raise ValueError(f"the pattern {self.pattern!r} has no group; write (?P<name>...) around what is wanted")

    def _groups(self) -> list[str]:
        try:
            found = pc.extract_regex(pa.array([], pa.string()), self.pattern).type
        except pa.ArrowInvalid as error:
            raise ValueError(f"the pattern {self.pattern!r} cannot be used: {error} (the syntax is RE2's)") from error
        return [field.name for field in found]

    def schema(self, given: pa.Schema) -> pa.Schema:
        """One more column of texts for each group."""
        kind = field_of(given, self.column, "extract", pa.string(), pa.large_string()).type
        return adding(given, dict.fromkeys(self._groups(), kind))

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Nothing is loaded."""
        yield self._extract

    def _extract(self, batch: Batch) -> Batch:
        found = pc.extract_regex(batch[self.column], self.pattern)
        matched = np.asarray(found.is_valid().to_numpy()) | (self.missing == "keep")
        groups = {name: pc.fill_null(pc.struct_field(found, name), "") for name in self._groups()}
        good, _ = pick(with_columns(batch, groups), matched)
        _, bad = pick(batch, matched)
        if self.missing == "quarantine" and bad.num_rows:
            raise RowErrors(good, bad, [self._reason(value) for value in bad[self.column].to_pylist()])
        return good

    def _reason(self, value: str | None) -> str:
        if value is None:
            return f"{self.column} is null"
        shown = value if len(value) <= 80 else f"{value[:80]}..."
        return f"{self.column} does not match {self.pattern!r}; it is {shown!r}"
