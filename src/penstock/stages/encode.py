"""Token ids to embeddings by a transformer encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.core.batch import adding, field_of, pick, tensor_column, tensor_type, with_columns
from penstock.core.dataset import is_promised, schema_of
from penstock.core.nouns import Batch, Licence, Transform
from penstock.errors import RowErrors, SchemaError
from penstock.models import tokenizer, transformer
from penstock.models.catalogue import CATALOGUE, Model, licence_of
from penstock.models.device import device_of, sent
from penstock.models.embedding import Text, Windows, framed, steps, windows
from penstock.models.engine import Choice, Each, Engine, lanes, opened
from penstock.models.packed import Compute

if TYPE_CHECKING:
    import torch

__all__ = ["Encode"]

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Encode:
    """Add the column ``embedding`` by running ``input_ids`` through a model.

    Rows are sorted by length and run in batches without padding; they come back in their order. The same batch gives
    the same bytes on the same machine. What stands in *ASIDE* changes rounding in the last bits alone, and on the
    machines where the packed engine was tried not even that, nor do a row's neighbours. (With ``int8`` they do, and
    so does *batch_tokens*, which is part of the fingerprint then.)

    Attributes:
        model: a name of the catalogue, or a folder with ``config.json`` and ``model.safetensors`` or
            ``pytorch_model.bin``.
        pooling: ``mean`` over a row's tokens; ``cls`` takes the first token; ``none`` keeps all, as a list of vectors.
        special: whether the tokens that stand around a text ([CLS], [SEP]) take part in ``mean`` and ``none``.
            ``include`` is what sentence-transformers does, ``exclude`` leaves residues or words alone.
        normalize: divide each vector by its Euclidean length.
        layer: whose hidden states are taken; 0 is the token table, -1 the last layer.
        window: longer rows are cut into windows of at most so many tokens, special ones around each of them; a token
            has the state of the window in whose middle it stands. 0 cuts nothing, and rows that are longer than the
            model takes are quarantined.
        overlap: tokens that two neighbouring windows share, special ones not counted.
        engine: ``packed`` computes nothing for padding, where the architecture is known to run so (BERT, RoBERTa,
            XLM-RoBERTa, CamemBERT, DistilBERT, ELECTRA, ESM), and is ``reference`` for others: transformers' own
            module on padded rows. ``auto`` tries both for a moment in each worker and takes the faster one.
        compute: number format of the layers. 16 bits are for GPUs; ``int8`` is for processors, is the fastest there,
            and is the one where a row's result depends on its neighbours (see docs/encoders.md).
        batch_tokens: tokens in one batch; without it, as many as were measured to be best.
        threads: of torch in one worker; 0 leaves them as they are.
        dtype: of the output.
        device: ``auto`` takes a GPU where there is one.
    """

    model: Model
    pooling: Literal["mean", "cls", "none"] = "mean"
    special: Literal["include", "exclude"] = "include"
    normalize: bool = False
    layer: int = -1
    window: int = 0
    overlap: int = 0
    engine: Choice = "packed"
    compute: Compute = "float32"
    batch_tokens: int | None = None
    threads: int = 0
    dtype: Literal["float32", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    ASIDE = ("batch_tokens", "threads", "device")
    NEEDS = ("torch", "transformers", "safetensors")
    REVISION = 2

    def __post_init__(self) -> None:
        if (self.batch_tokens is not None and self.batch_tokens < 1) or self.threads < 0:
            raise ValueError("batch_tokens must be at least 1, and threads must not be negative")
        if self.overlap < 0 or (self.overlap and self.overlap >= self.window):
            raise ValueError(f"overlap is {self.overlap}; from 0 to less than the window of {self.window} was needed")

    def schema(self, given: pa.Schema) -> pa.Schema:
        """One more column, ``embedding``; by ``config.json``, without torch, or by the training that will write it.

        Raises:
            SchemaError: there are no token ids, or no such layer.
            WeightsError: the model is not there.
        """
        field_of(given, "input_ids", "encode", pa.list_(pa.int32()), pa.list_(pa.int64()))
        return adding(given, {"embedding": self._kind(self._width())})

    def _width(self) -> int:
        if is_promised(self.model):
            return int(schema_of(self.model).field("embedding").type.shape[0])
        known = CATALOGUE.get(self.model)
        if known and not known.folder:  # known by name alone: the plan refuses it by its licence
            return known.width
        shape = transformer.shape_of(self.model)
        if not -shape.layers - 1 <= self.layer <= shape.layers:
            raise SchemaError(f"encode: '{self.model}' has {shape.layers} layers; there is no layer {self.layer}")
        if shape.longest and self.window > shape.longest:
            raise SchemaError(f"encode: '{self.model}' takes {shape.longest} tokens; lower window to that or less")
        return shape.width

    def _kind(self, width: int) -> pa.DataType:
        if self.pooling == "none":
            return pa.list_(pa.list_(pa.from_numpy_dtype(self.dtype), width))
        return tensor_type(self.dtype, width)

    def identity(self) -> Mapping[str, str]:
        """The hashes of config and weights, and of the tokenizer where special tokens are told by it.

        In ``int8`` the tokens of a batch are scaled together, so its size is more than a matter of speed.
        """
        asked = tokenizer.tokenizer_hashes(self.model) if self.special == "exclude" or self.window else {}
        batch = {"batch_tokens": str(self.batch_tokens)} if self.compute == "int8" else {}
        return {**transformer.weights_hashes(self.model), **asked, **batch}

    def weights_bytes(self) -> int:
        """Size of the weights in memory; unknown, so 0, before they are trained."""
        return 0 if is_promised(self.model) else transformer.weights_bytes(self.model)

    def licences(self) -> Sequence[Licence]:
        """The licence of the weights."""
        return () if is_promised(self.model) else (licence_of(self.model),)

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Load the model."""
        aside = tokenizer.frame_of(tokenizer.load(self.model)) if self.special == "exclude" else ()
        sides = self._sides()
        transformer.installed()
        place = device_of(self.device, "step")
        with (
            lanes(self.threads, place) as each,
            opened(
                self.model, self.engine, self.compute, self.layer, place, each=each, tokens=self.batch_tokens
            ) as engine,
        ):
            live = _Live(engine, each, place, transformer.shape_of(self.model), aside, *sides)
            yield _Encoding(self, live)

    def _sides(self) -> tuple[Ints, Ints]:
        """The special tokens before and after a text, for windows. Raises `SchemaError` when these have no room."""
        if not self.window:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        head, tail = tokenizer.sides_of(self.model)
        if len(head) + len(tail) + self.overlap >= self.window:
            raise SchemaError(
                f"encode: a window of {self.window} tokens holds {len(head) + len(tail)} special ones and "
                f"{self.overlap} shared ones, and no others; raise window or lower overlap"
            )
        return head, tail

    def encoded(self, batch: Batch, live: _Live) -> Batch:
        """*batch* with its embeddings."""
        rows = _Rows.of(batch["input_ids"], live.aside)
        reasons = rows.reasons(live.shape, self.window)
        keep = np.array([not reason for reason in reasons])
        good, bad = pick(batch, keep)
        good = with_columns(good, {"embedding": self._embedding(rows.only(keep), live)})
        if bad.num_rows:
            raise RowErrors(good, bad, [reason for reason in reasons if reason])
        return good

    def _embedding(self, rows: _Rows, live: _Live) -> pa.Array:
        pieces = live.pieces(rows, self.window, self.overlap)
        cuts = list(live.engine.batches(pieces.lengths, live.engine.tokens))
        if self.pooling == "none":
            found = np.empty((rows.wanted.sum(), live.shape.width), self.dtype)
            live.each(lambda cut: self._kept(pieces, rows, live, found, cut), cuts)
            return _nested(found, rows.counts)
        sums = live.vectors(len(pieces.lengths))
        live.each(lambda cut: self._pooled(pieces, live, sums, cut), cuts)
        pooled = sums.cpu().numpy()
        found = pooled[pieces.firsts] if self.pooling == "cls" else _means(pooled, pieces, rows)
        return tensor_column((_unit(found) if self.normalize else found).astype(self.dtype))

    def _kept(self, pieces: _Pieces, rows: _Rows, live: _Live, found: Floats, cut: Ints) -> None:
        """Put the states of all tokens that are wanted, of the pieces *cut*, into *found*."""
        states, at = live.states(pieces, cut)
        wanted = pieces.wanted[at]
        vectors = states.cpu().numpy()[wanted]
        found[rows.ranks[pieces.at[at[wanted]]]] = _unit(vectors) if self.normalize else vectors

    def _pooled(self, pieces: _Pieces, live: _Live, sums: torch.Tensor, cut: Ints) -> None:
        """Put the sums over the tokens of the pieces *cut*, or their first tokens' states, into *sums*.

        All of them stay on the network's device.
        """
        import torch

        states, at = live.states(pieces, cut)
        lengths, place = pieces.lengths[cut], states.device
        firsts, rows = np.cumsum(lengths) - lengths, sent(cut, place)
        if self.pooling == "cls":
            sums[rows] = states[sent(firsts, place)]
            return
        wanted = pieces.wanted[at]
        counts = np.add.reduceat(wanted, firsts, dtype=np.int64)
        chosen = states if wanted.all() else states[sent(wanted, place)]
        sums[rows] = torch.segment_reduce(chosen, "sum", lengths=sent(counts, place))


@dataclass(frozen=True)
class _Live:
    """An open model, its sizes, the tokens that are left out of pooling, and those before and after a text."""

    engine: Engine
    each: Each
    place: str
    shape: transformer.Shape
    aside: Sequence[int]
    head: Ints
    tail: Ints

    def pieces(self, rows: _Rows, window: int, overlap: int) -> _Pieces:
        """Rows as they are, or in windows."""
        if not window:
            return _Pieces(
                rows.values, rows.lengths, np.arange(len(rows.values)), rows.wanted, np.arange(len(rows.lengths))
            )
        text = Text(rows.values, rows.lengths)
        there = framed(text, self.head, self.tail)
        return _Pieces.cut(rows, windows(rows.lengths, there * len(self.head), there * len(self.tail), window, overlap))

    def states(self, pieces: _Pieces, cut: Ints) -> tuple[torch.Tensor, Ints]:
        """The states of the pieces *cut*, float32 ``"(piece token) dim"``, and where their tokens stand in all."""
        lengths = pieces.lengths[cut]
        at = np.repeat(pieces.starts[cut], lengths) + steps(lengths)
        return self.engine.states(pieces.values[at], lengths).float(), at

    def vectors(self, count: int) -> torch.Tensor:
        """Room for so many vectors where the network is, float32 ``"piece dim"``."""
        import torch

        return torch.empty((count, self.shape.width), device=self.place)


@dataclass(frozen=True)
class _Encoding:
    """The live stage; *told* stands in the record of each unit when the engine was chosen by trial."""

    stage: Encode
    live: _Live

    def __call__(self, batch: Batch) -> Batch:
        return self.stage.encoded(batch, self.live)

    @property
    def told(self) -> str:
        return self.live.engine.told


@dataclass(frozen=True)
class _Pieces:
    """What runs through the model: rows, or the windows of rows.

    Attributes:
        values: token ids of all pieces, ``"(piece token)"``.
        lengths: tokens of each piece, ``"piece"``.
        at: where each token stands among those of all rows, ``"(piece token)"``.
        wanted: which tokens are pooled; a token that stands in two windows is so in one of them, ``"(piece token)"``.
        firsts: the first piece of each row, ``"row"``.
    """

    values: Ints
    lengths: Ints
    at: Ints
    wanted: Flags
    firsts: Ints

    @classmethod
    def cut(cls, rows: _Rows, found: Windows) -> _Pieces:
        wanted = _middle(found.at, found.lengths) & rows.wanted[found.at]
        return cls(rows.values[found.at], found.lengths, found.at, wanted, np.flatnonzero(found.number == 0))

    @property
    def starts(self) -> Ints:
        """Where each piece begins, ``"piece"``."""
        return np.cumsum(self.lengths) - self.lengths


def _middle(at: Ints, lengths: Ints) -> Flags:
    """For each place one token of the windows that hold it: the one with most tokens on its shorter side."""
    step = steps(lengths)
    depth = np.minimum(step, np.repeat(lengths, lengths) - 1 - step)
    order = np.lexsort((-depth, at))  # stable: of two that are equal, the earlier window's
    found = np.zeros(len(at), np.bool_)
    found[order[np.flatnonzero(np.diff(at[order], prepend=-1))]] = True
    return found


def _means(sums: Floats, pieces: _Pieces, rows: _Rows) -> Floats:
    """The mean over each row's tokens, float32 ``"row dim"``, from the sums over its pieces."""
    if not len(pieces.firsts):
        return sums
    return np.asarray(np.add.reduceat(sums, pieces.firsts, axis=0) / rows.counts[:, None].astype(np.float32))


def _unit(vectors: Floats) -> Floats:
    """Each vector divided by its Euclidean length, which counts as 1e-12 at least (as in torch)."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12)))


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

    @cached_property
    def ranks(self) -> Ints:
        """The how manieth of the tokens that are pooled each one is, ``"(row token)"``."""
        return np.cumsum(self.wanted) - 1

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

    def reasons(self, shape: transformer.Shape, window: int) -> list[str]:
        """Why each row is refused, empty for good ones; a wrong id on a GPU would end the whole process."""
        foreign = self._per_row((self.values < 0) | (self.values >= shape.vocabulary))
        found = [""] * len(self.lengths)
        for row in np.flatnonzero(self.counts == 0):
            found[row] = "input_ids has no tokens to pool"
        for row in np.flatnonzero(foreign):
            found[row] = f"input_ids has {foreign[row]} ids outside 0 to {shape.vocabulary - 1}: it is another model's"
        longest = shape.longest if shape.longest and not window else np.inf
        for row in np.flatnonzero(self.lengths > longest):
            found[row] = (
                f"input_ids has {self.lengths[row]} tokens, the model takes {shape.longest}; "
                f"set max_length = {shape.longest} in the tokens step"
            )
        return found


def _nested(vectors: npt.NDArray[np.generic], counts: Ints) -> pa.Array:
    """A column of lists of vectors from all vectors, ``"(row token) dim"``, and how many each row has."""
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32()), flat)
