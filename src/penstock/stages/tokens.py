"""Texts or sequences to the token ids of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core.batch import adding, field_of, pick, with_columns
from penstock.core.nouns import Batch, Transform
from penstock.errors import RowErrors
from penstock.models import tokenizer
from penstock.models.catalogue import Model

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Tokens"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """Add the column ``input_ids``, list<int32>: token ids with the special tokens that the model wants around them.

    A row is quarantined when it is null, has no token, none that the vocabulary knows (lower-case letters where it
    has upper-case ones), or too many. A single unknown token becomes the vocabulary's [UNK], as in its training.

    Attributes:
        tokenizer: a model of the catalogue, a folder with ``tokenizer.json`` or a ``vocab.txt`` (ESM's, also of
            k-mers, or of single letters), or ``residue:protein``, ``residue:dna``, ``residue:rna`` for models of your
            own.
        column: the text.
        max_length: most tokens, special ones included; 0 is as many as the model says that it takes.
        too_long: ``quarantine`` refuses longer rows; ``truncate`` cuts them at the end and keeps the special tokens.
    """

    tokenizer: Model
    column: str = "sequence"
    max_length: int = 0
    too_long: Literal["quarantine", "truncate"] = "quarantine"

    NEEDS = ("tokenizers",)

    def __post_init__(self) -> None:
        if self.max_length < 0 or self.max_length in (1, 2):
            raise ValueError(
                f"max_length is {self.max_length}; 0 or at least 3 was needed, since two are special tokens"
            )

    def schema(self, given: pa.Schema) -> pa.Schema:
        """One more column, ``input_ids``. Raises `WeightsError` when there is no such tokenizer."""
        field_of(given, self.column, "tokens", pa.string(), pa.large_string())
        tokenizer.tokenizer_hashes(self.tokenizer)
        return adding(given, {"input_ids": pa.list_(pa.int32())})

    def identity(self) -> Mapping[str, str]:
        """The hash of the tokenizer's file, and the length that follows from the model's."""
        return {**tokenizer.tokenizer_hashes(self.tokenizer), "longest": str(self._longest())}

    def _longest(self) -> int:
        return self.max_length or tokenizer.longest_of(self.tokenizer)

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Load the tokenizer."""
        live, longest = tokenizer.load(self.tokenizer), self._longest()
        if longest and self.too_long == "truncate":
            live.enable_truncation(longest)
        yield lambda batch: self._tokens(live, longest, batch)

    def _tokens(self, live: Tokenizer, longest: int, batch: Batch) -> Batch:
        texts = batch[self.column].to_pylist()
        found = [encoding.ids for encoding in live.encode_batch_fast([text or "" for text in texts])]
        lengths = np.array([len(ids) for ids in found])
        values = np.concatenate([np.asarray(ids, np.int32) for ids in found])
        known = _known(live, values, lengths)
        reasons = [self._reason(*row, longest) for row in zip(texts, lengths.tolist(), known.tolist(), strict=True)]
        keep = np.array([not reason for reason in reasons])
        good, bad = pick(batch, keep)
        offsets = np.concatenate([[0], np.cumsum(lengths[keep])])
        flat = pa.array(values[np.repeat(keep, lengths)], pa.int32())
        good = with_columns(good, {"input_ids": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)})
        if bad.num_rows:
            raise RowErrors(good, bad, [reason for reason in reasons if reason])
        return good

    def _reason(self, text: str | None, length: int, known: int, longest: int) -> str:
        """Why a row is refused; empty when it is not."""
        if text is None:
            return f"{self.column} is null"
        if not known:
            return f"{self.column} has no token that '{self.tokenizer}' knows; it begins {text[:20]!r}: check its case"
        if longest and length > longest:
            return (
                f"{self.column} has {length} tokens, '{self.tokenizer}' takes {longest}; "
                "cut it before, or set too_long = 'truncate'"
            )
        return ""


def _known(live: Tokenizer, values: npt.NDArray[np.int32], lengths: Ints) -> Ints:
    """How many tokens of each row are neither special nor unknown, ``"row"``."""
    unknown = live.token_to_id(getattr(live.model, "unk_token", None) or "")
    aside = [*tokenizer.frame_of(live), *([] if unknown is None else [unknown])]
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return np.bincount(rows[~np.isin(values, aside)], minlength=len(lengths))
