"""What a transformer's first layer receives: rows of the token table, and what the network adds to them.

Which terms there are, where they lie in the weights, and in which order they are added is told by `FAMILIES`; so the
sums are equal, bit for bit, to those of the network's own module. Only the tensors that are needed are read.

The terms: token and learned position (Gehring et al. 2017, arXiv:1705.03122), sinusoids (Vaswani et al. 2017,
arXiv:1706.03762, 3.5), token type (Devlin et al. 2018, arXiv:1810.04805), LayerNorm (Ba et al. 2016,
arXiv:1607.06450), token dropout (Lin et al. 2023, ESM-2, 10.1126/science.ade2574). Rotary networks (Su et al. 2021,
arXiv:2104.09864) turn queries and keys in their layers, and add nothing here.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from penstock.errors import WeightsError
from penstock.models.catalogue import folder_of, hash_of, verify
from penstock.models.transformer import cause, shape_of, weights_files

if TYPE_CHECKING:
    import torch

__all__ = [
    "FAMILIES",
    "Architecture",
    "Family",
    "Lookup",
    "Part",
    "Tensors",
    "Text",
    "Weights",
    "Windows",
    "architecture_of",
    "embedded",
    "framed",
    "loaded",
    "positions",
    "sinusoids",
    "steps",
    "summed",
    "table_bytes",
    "tensor_hashes",
    "threaded",
    "windows",
]

Ints = npt.NDArray[np.int64]
Part = Literal["sum", "tokens", "inputs_embeds"]
Numbering = Literal["none", "count", "after_padding"]

_BLOCK_BYTES = 1 << 20  # of one intermediate: it stays in a core's cache between two terms
_MASKED_IN_TRAINING = 0.15 * 0.8  # of ESM's tokens, a constant in its code too


class Lookup(Protocol):
    """Rows of numbers by their ids: a torch tensor, a numpy array or memory map, or the client of a larger table."""

    def __getitem__(self, ids: Ints, /) -> Any:
        """The rows *ids*, float, ``"id dim"``."""


@dataclass(frozen=True, slots=True)
class Family:
    """How networks of one ``model_type`` make their first hidden state.

    Attributes:
        prefix: before the names of tensors when the file holds a network with a head.
        words, position, type, norm: names of the tables, and of the LayerNorm without ``.weight``; empty for none.
        shifted: whether the LayerNorm must have a bias.
        numbering: of positions: ``count`` from 0; ``after_padding`` from the padding token's id + 1 on, where
            padding tokens keep that id (fairseq's rule).
        eps, padding: of the LayerNorm, and the padding token's id, where ``config.json`` does not say them.
        eps_key, padding_key: what ``config.json`` calls them; empty when the network does not ask.
        inputs_embeds: what the network's argument of that name stands for. Most add the other terms to it; ESM
            passes by its embedding module.
    """

    prefix: str
    words: str = "embeddings.word_embeddings.weight"
    position: str = "embeddings.position_embeddings.weight"
    type: str = "embeddings.token_type_embeddings.weight"
    norm: str = "embeddings.LayerNorm"
    shifted: bool = True
    numbering: Numbering = "count"
    eps: float = 1e-12
    eps_key: str = "layer_norm_eps"
    padding: int = 0
    padding_key: str = "pad_token_id"
    inputs_embeds: Literal["sum", "tokens"] = "tokens"


_BERT = Family("bert")
_ROBERTA = Family("roberta", numbering="after_padding", padding=1)
_TOKENS_ALONE = Family("model", "embed_tokens.weight", position="", type="", norm="", numbering="none")

FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "camembert": _ROBERTA,
    "distilbert": replace(_BERT, prefix="distilbert", type="", eps_key=""),
    "electra": replace(_BERT, prefix="electra"),
    "esm": replace(_ROBERTA, prefix="esm", type="", norm="embeddings.layer_norm", inputs_embeds="sum"),
    "gpt2": Family("transformer", "wte.weight", "wpe.weight", type="", norm=""),
    "gpt_neox": replace(_TOKENS_ALONE, prefix="gpt_neox", words="embed_in.weight"),
    "llama": _TOKENS_ALONE,
    "mistral": _TOKENS_ALONE,
    "modernbert": replace(
        _TOKENS_ALONE,
        words="embeddings.tok_embeddings.weight",
        norm="embeddings.norm",
        shifted=False,
        eps=1e-5,
        eps_key="norm_eps",
    ),
    "mpnet": replace(_ROBERTA, prefix="mpnet", type="", padding_key=""),
    "qwen2": _TOKENS_ALONE,
    "qwen3": _TOKENS_ALONE,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A family with the sizes and settings of one ``config.json``.

    Attributes:
        width: dimensions of an embedding.
        vocabulary: token ids are below this.
        types: token types; 0 when there are none.
        longest: tokens that have positions; 0 sets no limit.
        places: rows of the position table; 0 when there is none.
        padding: the id of the padding token.
        eps: of the LayerNorm.
        mask: the id of ``<mask>`` where the network drops it (ESM's ``token_dropout``), else None.
        sinusoidal: positions that the weights do not hold are sinusoids.
    """

    family: Family
    width: int
    vocabulary: int
    types: int
    longest: int
    places: int
    padding: int
    eps: float
    mask: int | None
    sinusoidal: bool


def architecture_of(model: str) -> Architecture:
    """How *model* makes its first hidden state, by its ``config.json``; torch is not needed.

    Raises:
        WeightsError: the file is missing or incomplete, or networks of its kind are not known here.
    """
    shape, path = shape_of(model), folder_of(model) / "config.json"
    config = json.loads(path.read_bytes())
    family = _family(path, config, shape.width)
    padding = _said(config, family.padding_key, family.padding)
    places = _places(path, config) if family.position else 0
    return Architecture(
        family,
        shape.width,
        shape.vocabulary,
        types=_said(config, "type_vocab_size", 2) if family.type else 0,
        longest=places - padding - 1 if places and family.numbering == "after_padding" else places,
        places=places,
        padding=padding,
        eps=_said(config, family.eps_key, family.eps),
        mask=_mask(path, config),
        sinusoidal=bool(config.get("sinusoidal_pos_embds")),
    )


def _family(path: Path, config: Mapping[str, Any], width: int) -> Family:
    """The family with the terms that *config* leaves."""
    kind, scheme = config.get("model_type"), config.get("position_embedding_type") or "absolute"
    family = FAMILIES.get(str(kind))
    if family is None:
        raise WeightsError(
            f"{path}: model_type is {kind!r}; the embedding step knows {', '.join(FAMILIES)}; "
            "the encode step with layer = 0 runs any network of transformers"
        )
    if scheme not in ("absolute", "rotary"):
        raise WeightsError(f"{path}: position_embedding_type is {scheme!r}; 'absolute' or 'rotary' was needed")
    if _said(config, "embedding_size", width) != width:
        raise WeightsError(
            f"{path}: the embedding has {config['embedding_size']} dimensions and is projected to {width}, which is "
            "no lookup; choose the encode step with layer = 0"
        )
    if scheme == "rotary":
        family = replace(family, position="", numbering="none")
    return replace(family, norm="") if kind == "esm" and not config.get("emb_layer_norm_before") else family


def _places(path: Path, config: Mapping[str, Any]) -> int:
    found = _said(config, "max_position_embeddings", 0) or _said(config, "n_positions", 0)
    if not found:
        raise WeightsError(f"{path}: has neither max_position_embeddings nor n_positions; fetch the model again")
    return int(found)


def _mask(path: Path, config: Mapping[str, Any]) -> int | None:
    if config.get("model_type") != "esm" or not config.get("token_dropout"):
        return None
    if config.get("mask_token_id") is None:
        raise WeightsError(f"{path}: token_dropout is set without mask_token_id; fetch the model again")
    return int(config["mask_token_id"])


def _said(config: Mapping[str, Any], key: str, otherwise: Any) -> Any:
    found = config.get(key)
    return otherwise if found is None else found


# --- weights ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """The tables, ``"row dim"``, and the LayerNorm, ``"dim"``; None for terms that the network does not add.

    *words* keeps the file's type and stays on disk (memory-mapped) where the file allows it; rows become float32
    when they are looked up. The others are float32.
    """

    words: Lookup
    position: torch.Tensor | None = None
    type: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    shift: torch.Tensor | None = None

    def to(self, device: str) -> Weights:
        """The same tables on a device. Those of a `Lookup` other than a tensor stay where they are."""
        import torch

        def there(table: Any) -> Any:
            return table.to(device) if isinstance(table, torch.Tensor) else table

        return Weights(*(there(getattr(self, field.name)) for field in fields(self)))


def loaded(model: str, architecture: Architecture) -> Weights:
    """The embedding's weights of *model*, and none of its other ones.

    Raises:
        WeightsError: they are missing, damaged, unsafe or of another size than ``config.json`` says.
    """
    verify(model)
    family, width = architecture.family, architecture.width
    tensors = Tensors.of(folder_of(model), family.prefix)
    words = tensors.needed(family.words, (architecture.vocabulary, width))
    position, kinds, scale, shift = (
        _position(tensors, architecture) if family.position else None,
        tensors.needed(family.type, (architecture.types, width)) if family.type else None,
        tensors.needed(f"{family.norm}.weight", (width,)) if family.norm else None,
        _shift(tensors, architecture) if family.norm else None,
    )
    position, kinds, scale, shift = (None if t is None else t.float() for t in (position, kinds, scale, shift))
    return Weights(words, position, kinds, scale, shift)


def _position(tensors: Tensors, architecture: Architecture) -> torch.Tensor:
    name, places, width = architecture.family.position, architecture.places, architecture.width
    if architecture.sinusoidal and not tensors.has(name):
        return sinusoids(places, width)
    return tensors.needed(name, (places, width))


def _shift(tensors: Tensors, architecture: Architecture) -> torch.Tensor | None:
    name = f"{architecture.family.norm}.bias"
    there = architecture.family.shifted or tensors.has(name)
    return tensors.needed(name, (architecture.width,)) if there else None


@dataclass(frozen=True)
class Tensors:
    """The tensors of a folder by name, read when they are asked for."""

    folder: Path
    prefix: str
    files: Mapping[str, Path]
    pickled: Mapping[str, torch.Tensor]

    @classmethod
    def of(cls, folder: Path, prefix: str) -> Tensors:
        """Those of *folder*; *prefix* stands before their names when the file holds a network with a head."""
        paths = weights_files(folder)
        if paths[0].suffix != ".safetensors":
            return cls(folder, prefix, {}, _unpickled(paths[0]))
        return cls(folder, prefix, {name: path for path in paths for name in _header(path)}, {})

    def has(self, name: str) -> bool:
        """Whether there is a tensor called *name*."""
        return _found(name, self.prefix, self.files or self.pickled) is not None

    def needed(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The tensor called *name*. Raises `WeightsError` when there is none, or of another shape."""
        full = _found(name, self.prefix, self.files or self.pickled)
        if full is None:
            raise WeightsError(
                f"{self.folder}: the weights have no {name}; they belong to another config.json or are incomplete, "
                "fetch the model again"
            )
        tensor = self.pickled[full] if full in self.pickled else _mapped(self.files[full], full)
        if tuple(tensor.shape) != shape:
            raise WeightsError(
                f"{self.folder}: {full} is {'x'.join(map(str, tensor.shape))}, by config.json it should be "
                f"{'x'.join(map(str, shape))}: config and weights belong to different models, fetch both again"
            )
        return tensor


def _found(name: str, prefix: str, there: Mapping[str, Any]) -> str | None:
    """As which name *there* has the tensor: with the prefix, or under the names of TensorFlow (gamma and beta)."""
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return next((full for n in (name, old) for full in (n, f"{prefix}.{n}") if full in there), None)


def _mapped(path: Path, name: str) -> torch.Tensor:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)
    except Exception as error:  # whatever a damaged file provokes
        raise WeightsError(f"{path}: {name} cannot be read: {cause(error)}") from error


def _unpickled(path: Path) -> Mapping[str, torch.Tensor]:
    """Tensors of a ``.bin``; on disk until they are used, when it is of torch 1.6 or later (a zip file)."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # whatever a damaged or hostile file provokes
        raise WeightsError(f"{path}: the weights cannot be loaded: {cause(error)}") from error
    return found if isinstance(found, dict) else {}


def _header(path: Path) -> Mapping[str, Any]:
    """What a safetensors file holds, by name: type, shape and offsets. See https://huggingface.co/docs/safetensors."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            header.pop("__metadata__", None)
            return {name: {**entry, "start": file.tell()} for name, entry in header.items()}
    except (OSError, ValueError, MemoryError, OverflowError, AttributeError, TypeError) as error:
        raise WeightsError(f"{path}: no safetensors file ({error}); fetch the model again") from error


def tensor_hashes(model: str) -> Mapping[str, str]:
    """sha256 (hex) of ``config.json`` and of the embedding's tensors alone; of a ``.bin`` the whole file's.

    So another head on the same network leaves the result as it is, and nothing else is read.
    """
    verify(model)
    folder, family = folder_of(model), architecture_of(model).family
    found, paths = {"config.json": hash_of(folder / "config.json")}, weights_files(folder)
    if paths[0].suffix != ".safetensors":
        return {**found, paths[0].name: hash_of(paths[0])}
    files = {name: (path, entry) for path in paths for name, entry in _header(path).items()}
    wanted = [family.words, family.position, family.type, f"{family.norm}.weight", f"{family.norm}.bias"]
    for full in filter(None, (_found(name, family.prefix, files) for name in wanted)):
        path, entry = files[full]
        begin, end = entry["data_offsets"]
        found[full] = _hash(path, path.stat().st_mtime_ns, entry["start"] + begin, end - begin)
    return found


@lru_cache(maxsize=1024)
def _hash(path: Path, _mtime: int, start: int, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while size > 0 and (block := file.read(min(size, 1 << 22))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()


def table_bytes(model: str) -> int:
    """Size of the embedding's weights as float32. Raises `WeightsError` when there are none."""
    weights_files(folder_of(model))
    found = architecture_of(model)
    return 4 * found.width * (found.vocabulary + found.places + found.types + 2 * bool(found.family.norm))


def sinusoids(places: int, width: int) -> torch.Tensor:
    """Sine and cosine of each position in turn, float32, ``"position dim"``: Vaswani et al. 2017, 3.5."""
    import torch

    # Powers one by one: numpy's vector power may differ from its scalar one, which made the published weights.
    rates = np.array([np.power(10000, 2 * (j // 2) / width) for j in range(width)])
    angles = np.arange(places)[:, None] / rates
    angles[:, 0::2], angles[:, 1::2] = np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])
    return torch.from_numpy(angles.astype(np.float32))


# --- the sum ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """Tokens of all rows one after the other.

    Attributes:
        ids: ``"token"``.
        lengths: tokens of each row, ``"row"``.
        types: ``"token"``; None stands for type 0 everywhere, as in the networks.
        real: which tokens the attention mask lets through, ``"token"``; None for all.
    """

    ids: Ints
    lengths: Ints
    types: Ints | None = None
    real: npt.NDArray[np.bool_] | None = None

    @property
    def rows(self) -> Ints:
        """The row of each token, ``"token"``."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def per_row(self, flags: npt.NDArray[np.bool_]) -> Ints:
        """How many tokens of each row are flagged, ``"row"``."""
        return np.bincount(self.rows[flags], minlength=len(self.lengths)).astype(np.int64)


def positions(architecture: Architecture, text: Text) -> Ints:
    """The position of each token, ``"token"``; they begin anew in each row."""
    starts = np.cumsum(text.lengths) - text.lengths
    if architecture.family.numbering == "count":
        return np.arange(len(text.ids)) - np.repeat(starts, text.lengths)
    there = text.ids != architecture.padding
    before = np.concatenate([[0], np.cumsum(there)])
    return np.asarray((before[1:] - np.repeat(before[starts], text.lengths)) * there + architecture.padding)


def embedded(
    architecture: Architecture, weights: Weights, text: Text, part: Part = "sum", dtype: npt.DTypeLike = np.float32
) -> npt.NDArray[np.floating[Any]]:
    """The embeddings of all tokens, ``"token dim"``, computed in float32.

    Args:
        architecture: which terms there are.
        weights: the tables.
        text: ids below the table's size, rows no longer than there are positions.
        part: ``tokens`` is the token table's rows alone; ``sum`` is what the first layer receives;
            ``inputs_embeds`` is the one of them that the network's argument of that name stands for.
        dtype: of the result, float32 or float16.
    """
    import torch

    whole = (architecture.family.inputs_embeds if part == "inputs_embeds" else part) == "sum"
    terms = _Terms.of(architecture, weights, text) if whole else None
    ids = torch.from_numpy(np.ascontiguousarray(text.ids, np.int64))
    found = np.empty((len(ids), architecture.width), dtype)
    out, step = torch.from_numpy(found), max(1, _BLOCK_BYTES // (4 * architecture.width))
    with torch.inference_mode():
        for start in range(0, len(ids), step):
            at = slice(start, start + step)
            block = _rows(weights.words, ids[at])
            out[at] = terms.added(block, at) if terms else block
    return found


def summed(architecture: Architecture, weights: Weights, text: Text) -> torch.Tensor:
    """The sum of a few tokens, float32, ``"token dim"``, on the device where the tables are; no blocks, no copies."""
    import torch

    with torch.inference_mode():
        ids = torch.from_numpy(np.ascontiguousarray(text.ids, np.int64))
        ids = ids.to(weights.words.device) if isinstance(weights.words, torch.Tensor) else ids
        return _Terms.of(architecture, weights, text).to(ids.device).added(_rows(weights.words, ids), slice(None))


def _rows(table: Lookup, ids: torch.Tensor) -> torch.Tensor:
    """Rows of *table* as float32, a copy, ``"token dim"``."""
    import torch

    if isinstance(table, torch.Tensor):
        return torch.nn.functional.embedding(ids, table).float()
    return torch.from_numpy(np.array(table[ids.numpy()], np.float32))


@dataclass(frozen=True)
class _Terms:
    """What is added to the token table's rows: for each token its position, type, and whether and how it is scaled."""

    architecture: Architecture
    weights: Weights
    positions: torch.Tensor | None
    types: torch.Tensor | None
    dropped: torch.Tensor | None
    kept: torch.Tensor | None
    real: torch.Tensor | None

    @classmethod
    def of(cls, architecture: Architecture, weights: Weights, text: Text) -> _Terms:
        import torch

        def tensor(values: npt.NDArray[Any] | None) -> torch.Tensor | None:
            return None if values is None else torch.from_numpy(values)

        dropped = None if architecture.mask is None else text.ids == architecture.mask
        kept = None if dropped is None else _kept(text, dropped)
        masked = text.real if architecture.family.inputs_embeds == "sum" else None  # ESM's module alone applies it
        places = None if weights.position is None else positions(architecture, text)
        return cls(
            architecture, weights, tensor(places), tensor(text.types), tensor(dropped), tensor(kept), tensor(masked)
        )

    def to(self, device: torch.device) -> _Terms:
        """The same terms, with what is told of each token on *device*."""
        told = (self.positions, self.types, self.dropped, self.kept, self.real)
        return _Terms(self.architecture, self.weights, *(None if t is None else t.to(device) for t in told))

    def added(self, block: torch.Tensor, at: slice) -> torch.Tensor:
        """*block*, the rows of the tokens *at*, with all terms, in the order of the networks; *block* is used up."""
        from torch.nn import functional

        weights = self.weights
        if self.dropped is not None and self.kept is not None:
            block.masked_fill_(self.dropped[at, None], 0.0).mul_(1 - _MASKED_IN_TRAINING).div_(self.kept[at, None])
        if weights.type is not None:
            block += weights.type[0] if self.types is None else functional.embedding(self.types[at], weights.type)
        if weights.position is not None and self.positions is not None:
            block += functional.embedding(self.positions[at], weights.position)
        if weights.scale is not None:
            width, eps = self.architecture.width, self.architecture.eps
            block = functional.layer_norm(block, (width,), weights.scale, weights.shift, eps)
        return block if self.real is None else block * self.real[at, None]


def _kept(text: Text, dropped: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """The share of each token's row that is not ``<mask>``, as ESM's module counts it, ``"token"``."""
    lengths = text.lengths if text.real is None else text.per_row(text.real)
    share = np.float32(1) - text.per_row(dropped).astype(np.float32) / lengths.astype(np.float32)
    return np.repeat(share, text.lengths)


@contextmanager
def threaded(count: int) -> Iterator[None]:
    """Torch with *count* threads in this process; 0 leaves them as they are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- windows ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """Where the tokens of windows stand.

    Attributes:
        rows: the row that each window is cut from, ``"window"``.
        number: of the window in its row, from 0, ``"window"``.
        starts: token *t* of a window stands at place ``start + t`` of its row, special ones apart, ``"window"``.
        lengths: tokens of each window, ``"window"``.
        at: places in the flat column, ``"(window token)"``.
    """

    rows: Ints
    number: Ints
    starts: Ints
    lengths: Ints
    at: Ints


def windows(lengths: Ints, head: Ints, tail: Ints, size: int, overlap: int) -> Windows:
    """Cut rows into windows of at most *size* tokens, of which two neighbours share *overlap*.

    The first *head* and the last *tail* tokens of a row stand around each of its windows and do not count as shared.
    These are the windows of ``truncation(max_length=size, stride=overlap)`` in https://huggingface.co/docs/tokenizers.

    Args:
        lengths: tokens of each row, ``"row"``.
        head: special tokens at each row's beginning, ``"row"``.
        tail: special tokens at each row's end, ``"row"``.
        size: more than *overlap* and the special tokens together.
        overlap: 0 or more.
    """
    inner, room = lengths - head - tail, size - head - tail
    step = room - overlap
    counts = 1 + np.maximum(0, -((room - inner) // step))
    rows = np.repeat(np.arange(len(lengths)), counts)
    number = steps(counts)
    starts = number * step[rows]
    sizes = head[rows] + np.minimum(room[rows], inner[rows] - starts) + tail[rows]
    of, place = np.repeat(np.arange(len(rows)), sizes), steps(sizes)
    row = rows[of]
    left = sizes[of] - place  # tokens from here to the end of the window
    inside = np.where(place < head[row], place, starts[of] + place)
    inside = np.where(left <= tail[row], lengths[row] - left, inside)
    return Windows(rows, number, starts, sizes, inside + (np.cumsum(lengths) - lengths)[row])


def framed(text: Text, head: Ints, tail: Ints) -> npt.NDArray[np.bool_]:
    """Which rows have the special tokens *head* before and *tail* after them, ``"row"``."""
    ends = np.cumsum(text.lengths)
    found: npt.NDArray[np.bool_] = text.lengths >= len(head) + len(tail)
    for step, wanted in enumerate(head):
        found &= text.ids[np.minimum(ends - text.lengths + step, ends - 1)] == wanted
    for step, wanted in enumerate(tail[::-1], 1):
        found &= text.ids[np.maximum(ends - step, 0)] == wanted
    return found


def steps(counts: Ints) -> Ints:
    """0, 1, ... for each count, one after the other, ``"(row step)"``."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
