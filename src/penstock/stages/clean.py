"""Clean text or sequences: one form, one case, known letters, no repeats."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.core.batch import field_of, pick, with_columns
from penstock.core.nouns import Batch, Transform
from penstock.errors import RowErrors, SchemaError

__all__ = ["ALPHABETS", "Clean"]

ALPHABETS: Mapping[str, str] = {
    "protein": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "dna": "ACGTRYSWKMBDHVN",
    "rna": "ACGURYSWKMBDHVN",
}
"""Letters of the IUPAC codes (https://iupac.qmul.ac.uk/AminoAcid/, https://iubmb.qmul.ac.uk/misc/naseq.html),
ambiguous ones included; O and U are pyrrolysine and selenocysteine, J is leucine or isoleucine."""

# RE2 syntax. Control characters and U+FFFD, which stands where bytes could not be decoded, are damage in a text.
_NO_TEXT = r"[^\PC\n\t\r]|\x{FFFD}"
_GAPS = r"[\s\p{Z}.\-]"
_STOPS = r"\*+$"


@dataclass(frozen=True)
class Clean:
    """Bring a column of texts into one form and refuse what is none.

    In this order: Unicode normal form; white space is stripped, and where *alphabet* is a sequence's all white
    space, gaps (``-`` and ``.``) and stops (``*``) at the end go; case; then a row is refused that is null, too
    short, too long or has letters of no alphabet. At last rows that repeat an earlier row of their unit are dropped.

    Attributes:
        column: what is cleaned, in its place.
        alphabet: ``protein``, ``dna`` and ``rna`` take the IUPAC letters, upper case; ``text`` takes everything but
            control characters and U+FFFD; empty takes everything.
        letters: further letters that are taken, such as ``acgtn`` for soft-masked DNA; alone, the only ones.
        case: into which letters are brought.
        min_length, max_length: of a cleaned value, in characters; 0 sets no most.
        normal_form: of Unicode, https://unicode.org/reports/tr15/; empty keeps what is there.
        invalid: ``quarantine`` sets refused rows aside with letter and position; ``drop`` leaves them out, which
            the report counts.
        unique: columns that together tell rows apart. A row that repeats an earlier one of the same unit in all of
            them is dropped and counted, never quarantined: who asks for unique rows expects repeats. Repeats in
            other units stay.
    """

    column: str = "sequence"
    alphabet: Literal["", "protein", "dna", "rna", "text"] = ""
    letters: str = ""
    case: Literal["keep", "upper", "lower"] = "keep"
    min_length: int = 1
    max_length: int = 0
    normal_form: Literal["", "NFC", "NFKC"] = ""
    invalid: Literal["quarantine", "drop"] = "quarantine"
    unique: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.min_length < 0 or self.max_length < 0:
            raise ValueError("min_length and max_length must not be negative")
        if 0 < self.max_length < self.min_length:
            raise ValueError(f"max_length {self.max_length} is below min_length {self.min_length}: no row fits")
        if self.alphabet == "text" and self.letters:
            raise ValueError("letters are added to a sequence's alphabet; 'text' takes all letters already")

    @property
    def across_rows(self) -> bool:
        """Whether a row's answer depends on other rows of its unit; then a service keeps requests apart."""
        return bool(self.unique)

    def schema(self, given: pa.Schema) -> pa.Schema:
        """The same columns."""
        field_of(given, self.column, "clean", pa.string(), pa.large_string())
        for name in self.unique:
            kind = field_of(given, name, "clean").type
            if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
                raise SchemaError(f"clean: unique takes texts and numbers; column '{name}' is {kind}")
        return given

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Nothing is loaded."""
        yield self._clean

    def _clean(self, batch: Batch) -> Batch:
        values = self._formed(batch[self.column])
        wrong = self._wrong(values)
        good, bad = pick(batch, ~wrong)
        good = self._first_of_each(with_columns(good, {self.column: values.filter(pa.array(~wrong))}))
        if self.invalid == "quarantine" and bad.num_rows:
            raise RowErrors(good, bad, [self._reason(value) for value in values.filter(pa.array(wrong)).to_pylist()])
        return good

    def _formed(self, values: pa.ChunkedArray) -> pa.ChunkedArray:
        if self.normal_form:
            values = pc.utf8_normalize(values, form=self.normal_form)
        if self.alphabet in ALPHABETS:
            values = pc.replace_substring_regex(values, pattern=_GAPS, replacement="")
            values = pc.replace_substring_regex(values, pattern=_STOPS, replacement="")
        values = pc.utf8_trim_whitespace(values)
        return values if self.case == "keep" else getattr(pc, f"utf8_{self.case}")(values)

    def _wrong(self, values: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        length = pc.utf8_length(values)
        wrong = pc.less(length, self.min_length)
        if self.max_length:
            wrong = pc.or_(wrong, pc.greater(length, self.max_length))
        if self._foreign:
            wrong = pc.or_(wrong, pc.match_substring_regex(values, self._foreign))
        return np.asarray(pc.fill_null(wrong, True).to_numpy())

    @property
    def _foreign(self) -> str:
        """A pattern of what is not allowed; empty allows everything."""
        if self.alphabet == "text":
            return _NO_TEXT
        return f"[^{re.escape(self._allowed)}]" if self._allowed else ""

    @property
    def _allowed(self) -> str:
        return ALPHABETS.get(self.alphabet, "") + self.letters

    def _reason(self, value: str | None) -> str:
        if value is None:
            return f"{self.column} is null"
        if len(value) < self.min_length:
            return f"{self.column} has {len(value)} letters, at least {self.min_length} were needed"
        if 0 < self.max_length < len(value):
            return f"{self.column} has {len(value)} letters, at most {self.max_length} are allowed"
        return self._foreign_letter(value)

    def _foreign_letter(self, value: str) -> str:
        known = pc.extract_regex(pa.scalar(value), rf"(?s)^(?P<known>.*?)(?:{self._foreign})").as_py()["known"]
        letter = value[len(known)]
        hint = "; set case = 'upper'" if letter != letter.upper() and letter.upper() in self._allowed else ""
        return f"{self.column} has {letter!r} at position {len(known) + 1}, which is no letter of {self._called}{hint}"

    @property
    def _called(self) -> str:
        return " or of ".join(repr(name) for name in (self.alphabet, self.letters) if name)

    def _first_of_each(self, batch: Batch) -> Batch:
        if not self.unique:
            return batch
        columns = [batch[name] for name in self.unique]
        table = pa.table([*columns, pa.array(np.arange(batch.num_rows))], [*map(str, range(len(columns))), "row"])
        groups = table.group_by([*table.column_names[:-1]], use_threads=False).aggregate([("row", "min")])
        return batch.take(groups["row_min"].sort())
