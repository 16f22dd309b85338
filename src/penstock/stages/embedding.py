"""Token ids to what a transformer's first layer receives: E[ids], positions, types and LayerNorm, and no layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.core.batch import adding, field_of, pick, tensor_column, tensor_type, with_columns
from penstock.core.dataset import is_promised, schema_of
from penstock.core.nouns import Batch, Licence, Transform
from penstock.core.storage import Uri
from penstock.errors import RowErrors, SchemaError, WeightsError
from penstock.models import tokenizer
from penstock.models.catalogue import Model, licence_of
from penstock.models.embedding import (
    Architecture,
    Part,
    Text,
    Weights,
    Windows,
    architecture_of,
    embedded,
    framed,
    loaded,
    table_bytes,
    tensor_hashes,
    threaded,
    windows,
)
from penstock.tables.client import Client, open_table
from penstock.tables.layout import Table

__all__ = ["Embedding"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.generic]

_LISTS = (pa.list_(pa.int32()), pa.list_(pa.int64()))


@dataclass(frozen=True)
class Embedding:
    """Add the column ``embedding``: one vector for each of ``input_ids``, as the model's own embedding module makes it.

    Only the embedding's tensors are read, and none of the model's layers run. Without *length* the column is ragged:
    ``list<fixed_size_list<float>[dim]>``, a vector for each token. With *length* it is a tensor
    ``"token dim"`` of that many tokens, zero behind a row's last one, and a column ``mask``, uint8 ``"token"``, has 1
    where there is a token.

    With *window* a row becomes as many rows as it has windows, each with the row's other columns, its own
    ``input_ids``, and ``window`` int32, counting from 0, and ``start`` int32: token *t* of the window is token
    ``start + t`` of the row, special tokens apart. Positions begin anew in each window, as the model was trained.

    A row is quarantined that is null, empty, or longer than *length* or the model's positions, or that has ids of
    another model.

    Attributes:
        model: a name of the catalogue, or a folder with ``config.json`` and ``model.safetensors`` or
            ``pytorch_model.bin``.
        part: ``sum`` is all terms, what the first layer receives (``hidden_states[0]`` of transformers); ``tokens``
            is E[ids] alone; ``inputs_embeds`` is the one of these that the model takes as its argument of that name,
            so that nothing is added twice: E[ids] for most, which add the other terms themselves, and the sum for
            ESM, which then adds none.
        length: tokens of every row of the tensor; 0 keeps rows ragged.
        window: most tokens of a window, special ones included; 0 cuts nothing.
        overlap: tokens that two neighbouring windows share, special ones not counted.
        special: ``repeat`` puts the special tokens that stand around a row around each of its windows; ``cut``
            takes all tokens as they come.
        types: a column with the type of each token (``token_type_ids``); empty stands for type 0.
        dtype: of the output; the sums are made in float32.
        threads: of torch in one worker; 0 leaves them as they are.
        table: a table of Penstock (see ``penstock table``) that stands for the model's own E: trained further,
            or too large for one file. Positions, types and LayerNorm remain the model's.
    """

    model: Model
    part: Part = "sum"
    length: int = 0
    window: int = 0
    overlap: int = 0
    special: Literal["repeat", "cut"] = "repeat"
    types: str = ""
    dtype: Literal["float32", "float16"] = "float32"
    threads: int = 0
    table: Uri = ""

    ASIDE = ("threads",)
    NEEDS = ("torch", "safetensors")

    def __post_init__(self) -> None:
        if min(self.length, self.window, self.overlap, self.threads) < 0:
            raise ValueError("length, window, overlap and threads must not be negative")
        if self.overlap and self.overlap >= self.window:
            raise ValueError(f"overlap is {self.overlap}; less than the window of {self.window} tokens was needed")
        if self.length and self.window > self.length:
            raise ValueError(f"a window of {self.window} tokens does not fit in length = {self.length}; lower window")

    def schema(self, given: pa.Schema) -> pa.Schema:
        """``embedding``, then ``mask`` with *length*, ``window`` and ``start`` with *window*; without torch.

        Raises:
            SchemaError: there are no token ids, or the model has no types or fewer positions.
            WeightsError: the model is not there, is of an unknown kind, or its tokenizer is needed and not there.
        """
        field_of(given, "input_ids", "embedding", *_LISTS)
        found = architecture_of(self.model)
        if self.types:
            field_of(given, self.types, "embedding", *_LISTS)
            self._has_types(found)
        if found.longest and max(self.window, self.length) > found.longest:
            raise SchemaError(
                f"embedding: '{self.model}' takes {found.longest} tokens; lower window and length to that or less"
            )
        self._tokenizer()
        self._has_rows(found)
        return adding(given, self._columns(found.width))

    def _has_rows(self, found: Architecture) -> None:
        if not self.table:
            return
        (dim,) = schema_of(self.table).field("vector").type.shape
        limit = found.vocabulary if is_promised(self.table) else Table.at(self.table).layout.scheme.limit
        if dim != found.width or limit < found.vocabulary:
            raise SchemaError(
                f"embedding: the table {self.table} has {dim} numbers a row and takes ids below {limit}; "
                f"'{self.model}' needs {found.width}, and ids below {found.vocabulary}"
            )

    def _has_types(self, found: Architecture) -> None:
        if not found.types:
            raise SchemaError(f"embedding: '{self.model}' has no token types; leave out types = '{self.types}'")

    def _columns(self, width: int) -> Mapping[str, pa.DataType]:
        vectors = pa.list_(pa.list_(pa.from_numpy_dtype(self.dtype), width))
        padded = {"embedding": tensor_type(self.dtype, self.length, width), "mask": tensor_type("uint8", self.length)}
        columns = padded if self.length else {"embedding": vectors}
        return {**columns, "window": pa.int32(), "start": pa.int32()} if self.window else columns

    def _tokenizer(self) -> Mapping[str, str]:
        """The hashes of the tokenizer, where it has to say which tokens are special."""
        if not (self.window and self.special == "repeat"):
            return {}
        try:
            return tokenizer.tokenizer_hashes(self.model)
        except WeightsError as error:
            raise WeightsError(f"{error}; or set special = 'cut', which needs no tokenizer") from error

    def identity(self) -> Mapping[str, str]:
        """The hashes of config, embedding tensors and table, and of the tokenizer where it tells special tokens."""
        table = {"table": Table.at(self.table).manifest.sha256} if self.table else {}
        return {**tensor_hashes(self.model), **self._tokenizer(), **table}

    def weights_bytes(self) -> int:
        """Size of the embedding's weights in memory."""
        return table_bytes(self.model)

    def licences(self) -> Sequence[Licence]:
        """The licence of the weights."""
        return (licence_of(self.model),)

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Map the tables into memory."""
        found = architecture_of(self.model)
        weights = loaded(self.model, found)
        with ExitStack() as stack:
            stack.enter_context(threaded(self.threads))
            if self.table:
                weights = replace(weights, words=_Rows(stack.enter_context(open_table(self.table))))
            live = _Live(found, weights, *self._frame())
            yield lambda batch: self._embed(batch, live)

    def _frame(self) -> tuple[Ints, Ints]:
        """The special tokens before and after a text. Raises `SchemaError` when windows have no room beside them."""
        none = np.empty(0, np.int64)
        head, tail = tokenizer.sides_of(self.model) if self._tokenizer() else (none, none)
        if self.window and len(head) + len(tail) + self.overlap >= self.window:
            raise SchemaError(
                f"embedding: a window of {self.window} tokens holds {len(head) + len(tail)} special ones and "
                f"{self.overlap} shared ones, and no others; raise window or lower overlap"
            )
        return head, tail

    def _embed(self, batch: Batch, live: _Live) -> Batch:
        text = _text(batch, self.types)
        reasons = self._reasons(batch, text, live.architecture)
        keep = np.array([not reason for reason in reasons])
        good, bad = pick(batch, keep)
        good = self._done(good, _only(text, keep), live)
        if bad.num_rows:
            raise RowErrors(good, bad, [reason for reason in reasons if reason])
        return good

    def _done(self, batch: Batch, text: Text, live: _Live) -> Batch:
        """*batch* with its embeddings, cut into windows before where that is wanted."""
        extra: dict[str, pa.Array] = {}
        if self.window:
            cut = live.windows(text, self.window, self.overlap)
            batch, text = self._cut(batch, text, cut)
            extra = {
                name: pa.array(found, pa.int32()) for name, found in (("window", cut.number), ("start", cut.starts))
            }
        vectors = embedded(live.architecture, live.weights, text, self.part, self.dtype)
        columns = self._padded(vectors, text.lengths) if self.length else {"embedding": _nested(vectors, text.lengths)}
        return with_columns(batch, {**columns, **extra})

    def _cut(self, batch: Batch, text: Text, cut: Windows) -> tuple[Batch, Text]:
        """The rows and tokens of all windows."""
        types = None if text.types is None else text.types[cut.at]
        found = Text(text.ids[cut.at], cut.lengths, types)
        lists = {"input_ids": found.ids, self.types: types}
        columns = {
            name: _nested(values, cut.lengths).cast(batch.schema.field(name).type)
            for name, values in lists.items()
            if values is not None
        }
        return with_columns(batch.take(pa.array(cut.rows)), columns), found

    def _padded(self, vectors: Floats, lengths: Ints) -> Mapping[str, pa.Array]:
        """``"(row token) dim"`` to ``"row token dim"`` with zeros, and which tokens are there."""
        mask = np.arange(self.length) < lengths[:, None]
        found = np.zeros((len(lengths), self.length, vectors.shape[1]), self.dtype)
        found[mask] = vectors
        return {"embedding": tensor_column(found), "mask": tensor_column(mask.astype(np.uint8))}

    def _reasons(self, batch: Batch, text: Text, found: Architecture) -> list[str]:
        """Why each row is refused; empty for good ones."""
        reasons = [""] * len(text.lengths)
        limit = min(filter(None, (self.length, found.longest)), default=0)
        if limit and not self.window:
            for row in np.flatnonzero(text.lengths > limit).tolist():
                reasons[row] = f"input_ids has {text.lengths[row]} tokens, {limit} fit; set window = {limit}"
        for row, count in _counted(text, (text.ids < 0) | (text.ids >= found.vocabulary)):
            reasons[row] = f"input_ids has {count} ids outside 0 to {found.vocabulary - 1}: it is another model's"
        for row in np.flatnonzero(_dropped(text, found)).tolist():
            reasons[row] = "input_ids has <mask> alone, of which the model makes no number"
        for row, told in self._wrong_types(batch, text, found):
            reasons[row] = told
        for row in np.flatnonzero(text.lengths == 0).tolist():
            reasons[row] = "input_ids has no tokens"
        return reasons

    def _wrong_types(self, batch: Batch, text: Text, found: Architecture) -> Iterator[tuple[int, str]]:
        if text.types is None:
            return
        for row, count in _counted(text, (text.types < 0) | (text.types >= found.types)):
            yield row, f"{self.types} has {count} types outside 0 to {found.types - 1}, or too few"
        for row in np.flatnonzero(_lengths(batch[self.types]) > text.lengths).tolist():
            yield row, f"{self.types} has more types than input_ids has tokens"


def _dropped(text: Text, found: Architecture) -> npt.NDArray[np.bool_]:
    """Rows of which the model drops every token, ``"row"``: it would divide by zero."""
    if found.mask is None:
        return np.zeros(len(text.lengths), np.bool_)
    return np.asarray(text.per_row(text.ids == found.mask) == text.lengths)


@dataclass(frozen=True)
class _Rows:
    """A table of Penstock as what `Weights.words` is."""

    client: Client

    def __getitem__(self, ids: Ints) -> npt.NDArray[np.float32]:
        return self.client.lookup(ids)


@dataclass(frozen=True)
class _Live:
    """Open tables, and the special tokens before and after a text."""

    architecture: Architecture
    weights: Weights
    head: Ints
    tail: Ints

    def windows(self, text: Text, size: int, overlap: int) -> Windows:
        """The windows of all rows; a row without special tokens around it gets none."""
        there = framed(text, self.head, self.tail)
        return windows(text.lengths, there * len(self.head), there * len(self.tail), size, overlap)


def _text(batch: Batch, types: str) -> Text:
    """All tokens; those that are null, and missing types, become -1, which no model knows."""
    lengths = _lengths(batch["input_ids"])
    return Text(_values(batch["input_ids"]), lengths, _fitted(batch[types], lengths) if types else None)


def _lengths(column: pa.ChunkedArray) -> Ints:
    return np.asarray(pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64))


def _values(column: pa.ChunkedArray) -> Ints:
    return np.asarray(pc.fill_null(pc.list_flatten(column), -1).to_numpy().astype(np.int64))


def _fitted(column: pa.ChunkedArray, lengths: Ints) -> Ints:
    """The values of *column*, each row cut or filled up with -1 to *lengths*, ``"token"``."""
    have = _lengths(column)
    step = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    there = step < np.repeat(have, lengths)
    found = np.full(len(step), -1, np.int64)
    found[there] = _values(column)[(step + np.repeat(np.cumsum(have) - have, lengths))[there]]
    return found


def _only(text: Text, keep: npt.NDArray[np.bool_]) -> Text:
    kept = np.repeat(keep, text.lengths)
    return Text(text.ids[kept], text.lengths[keep], None if text.types is None else text.types[kept])


def _counted(text: Text, flags: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Rows that have flagged tokens, and how many."""
    counts = text.per_row(flags)
    return ((int(row), int(counts[row])) for row in np.flatnonzero(counts))


def _nested(values: Floats, lengths: Ints) -> pa.ListArray:
    """A column of lists from the values, or vectors, of all tokens, ``"(row token) ..."``."""
    flat = pa.array(values.reshape(-1))
    items = flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), items)
