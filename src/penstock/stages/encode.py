"""Token ids to embeddings by a transformer encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.core.batch import adding, field_of, pick, tensor_column, tensor_type, with_columns
from penstock.core.nouns import Batch, Licence, Transform
from penstock.errors import RowErrors, SchemaError
from penstock.models import tokenizer, transformer
from penstock.models.catalogue import CATALOGUE, Model, licence_of

if TYPE_CHECKING:
    import torch

__all__ = ["Encode"]

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Encode:
    """Add the column ``embedding`` by running ``input_ids`` through a model.

    Rows are sorted by length and run in batches that are filled up only to their own longest row, so a unit of
    many rows wastes little; they come back in their order. The same batch gives the same bytes on the same
    machine. What stands in *ASIDE* changes rounding in the last bits alone.

    Attributes:
        model: a name of the catalogue, or a folder with ``config.json`` and ``model.safetensors`` or
            ``pytorch_model.bin``.
        pooling: ``mean`` over a row's tokens; ``cls`` takes the first token; ``none`` keeps all, as a list of vectors.
        special: whether the tokens that stand around a text ([CLS], [SEP]) take part in ``mean`` and ``none``.
            ``include`` is what sentence-transformers does, ``exclude`` leaves residues or words alone.
        normalize: divide each vector by its Euclidean length.
        layer: whose hidden states are taken; 0 is the token table, -1 the last layer.
        batch_tokens: tokens in one batch, padding counted.
        threads: of torch in one worker; 0 leaves them as they are.
        dtype: of the output; the network computes in float32.
        device: ``auto`` takes a GPU where there is one.
    """

    model: Model
    pooling: Literal["mean", "cls", "none"] = "mean"
    special: Literal["include", "exclude"] = "include"
    normalize: bool = False
    layer: int = -1
    batch_tokens: int = 8192
    threads: int = 0
    dtype: Literal["float32", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    ASIDE = ("batch_tokens", "threads", "device")
    NEEDS = ("torch", "transformers", "safetensors")

    def __post_init__(self) -> None:
        if self.batch_tokens < 1 or self.threads < 0:
            raise ValueError("batch_tokens must be at least 1, and threads must not be negative")

    def schema(self, given: pa.Schema) -> pa.Schema:
        """One more column, ``embedding``; by ``config.json``, without torch.

        Raises:
            SchemaError: there are no token ids, or no such layer.
            WeightsError: the model is not there.
        """
        field_of(given, "input_ids", "encode", pa.list_(pa.int32()), pa.list_(pa.int64()))
        return adding(given, {"embedding": self._kind(self._width())})

    def _width(self) -> int:
        known = CATALOGUE.get(self.model)
        if known and not known.folder:  # known by name alone: the plan refuses it by its licence
            return known.width
        shape = transformer.shape_of(self.model)
        if not -shape.layers - 1 <= self.layer <= shape.layers:
            raise SchemaError(f"encode: '{self.model}' has {shape.layers} layers; there is no layer {self.layer}")
        return shape.width

    def _kind(self, width: int) -> pa.DataType:
        if self.pooling == "none":
            return pa.list_(pa.list_(pa.from_numpy_dtype(self.dtype), width))
        return tensor_type(self.dtype, width)

    def identity(self) -> Mapping[str, str]:
        """The hashes of config and weights, and of the tokenizer where special tokens are told by it."""
        asked = tokenizer.tokenizer_hashes(self.model) if self.special == "exclude" else {}
        return {**transformer.weights_hashes(self.model), **asked}

    def weights_bytes(self) -> int:
        """Size of the weights in memory."""
        return transformer.weights_bytes(self.model)

    def licences(self) -> Sequence[Licence]:
        """The licence of the weights."""
        return (licence_of(self.model),)

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Load the model."""
        shape = transformer.shape_of(self.model)
        aside = tokenizer.frame_of(tokenizer.load(self.model)) if self.special == "exclude" else ()
        with transformer.opened(self.model, self.layer, self.device, self.threads) as hidden:
            live = _Live(hidden, shape, aside)
            yield lambda batch: self._encode(batch, live)

    def _encode(self, batch: Batch, live: _Live) -> Batch:
        rows = _Rows.of(batch["input_ids"], live.aside)
        reasons = rows.reasons(live.shape)
        keep = np.array([not reason for reason in reasons])
        good, bad = pick(batch, keep)
        good = with_columns(good, {"embedding": self._embedding(rows.only(keep), live)})
        if bad.num_rows:
            raise RowErrors(good, bad, [reason for reason in reasons if reason])
        return good

    def _embedding(self, rows: _Rows, live: _Live) -> pa.Array:
        ragged = self.pooling == "none"
        ranks = np.cumsum(rows.wanted) - 1
        found = np.empty((rows.wanted.sum() if ragged else len(rows.lengths), live.shape.width), self.dtype)
        for batch in transformer.batches(rows.lengths, self.batch_tokens):
            at = transformer.grid(rows.offsets, batch)
            mask = at >= 0
            wanted = mask & rows.wanted[at]
            states = live.hidden(np.where(mask, rows.values[at], live.shape.padding), mask)
            found[ranks[at[wanted]] if ragged else batch] = self._pooled(states, wanted).cpu().numpy()
        return _nested(found, rows.counts) if ragged else tensor_column(found)

    def _pooled(self, states: torch.Tensor, wanted: Flags) -> torch.Tensor:
        """``"row token dim"`` to ``"row dim"``, or to ``"(wanted token) dim"`` when nothing is pooled."""
        import torch

        keep = torch.from_numpy(wanted).to(states.device)
        if self.pooling == "mean":
            found = (states * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
        else:
            found = states[:, 0] if self.pooling == "cls" else states[keep]
        return torch.nn.functional.normalize(found, dim=-1) if self.normalize else found


@dataclass(frozen=True)
class _Live:
    """An open model, its sizes, and the tokens that are left out of pooling."""

    hidden: transformer.Hidden
    shape: transformer.Shape
    aside: Sequence[int]


@dataclass(frozen=True)
class _Rows:
    """Token ids of all rows one after the other, the length of each row, and which tokens are pooled."""

    values: Ints
    lengths: Ints
    wanted: Flags

    @classmethod
    def of(cls, column: pa.ChunkedArray, aside: Sequence[int]) -> _Rows:
        values = pc.fill_null(pc.list_flatten(column), -1).to_numpy().astype(np.int64)
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
        return cls(values, lengths, ~np.isin(values, aside))

    @property
    def offsets(self) -> Ints:
        """Where each row begins, and where the last one ends, ``"row + 1"``."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @property
    def counts(self) -> Ints:
        """How many tokens of each row are pooled, ``"row"``."""
        return self._per_row(self.wanted)

    def _per_row(self, flags: Flags) -> Ints:
        rows = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return np.bincount(rows[flags], minlength=len(self.lengths))

    def only(self, keep: Flags) -> _Rows:
        kept = np.repeat(keep, self.lengths)
        return _Rows(self.values[kept], self.lengths[keep], self.wanted[kept])

    def reasons(self, shape: transformer.Shape) -> list[str]:
        """Why each row is refused, empty for good ones; a wrong id on a GPU would end the whole process."""
        foreign = self._per_row((self.values < 0) | (self.values >= shape.vocabulary))
        found = [""] * len(self.lengths)
        for row in np.flatnonzero(self.counts == 0):
            found[row] = "input_ids has no tokens to pool"
        for row in np.flatnonzero(foreign):
            found[row] = f"input_ids has {foreign[row]} ids outside 0 to {shape.vocabulary - 1}: it is another model's"
        for row in np.flatnonzero((self.lengths > shape.longest) & (shape.longest > 0)):
            found[row] = (
                f"input_ids has {self.lengths[row]} tokens, the model takes {shape.longest}; "
                f"set max_length = {shape.longest} in the tokens step"
            )
        return found


def _nested(vectors: npt.NDArray[np.generic], counts: Ints) -> pa.Array:
    """A column of lists of vectors from all vectors, ``"(row token) dim"``, and how many each row has."""
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32()), flat)
