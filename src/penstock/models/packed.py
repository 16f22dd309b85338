"""Transformer encoders without padding: the tokens of many rows stand one after the other, ``"token dim"``.

Linear layers, LayerNorm and activation run on these packed tokens and never see a row's end; attention runs on
each group of rows of equal length, which are neighbours because rows come sorted. So no number is computed that
is thrown away, and a small batch stays in a core's cache from the first layer to the last.

On x86 the linear layers are oneDNN's (https://github.com/uxlfoundation/oneDNN), with the activation or the residual
sum fused in. It adds the terms of a product in one order, whatever the number of threads and rows: on the machines
where this was tried, a row's states are the same bits whoever its neighbours are.

The architectures: BERT (Devlin et al. 2018, arXiv:1810.04805), RoBERTa (Liu et al. 2019, arXiv:1907.11692),
DistilBERT (Sanh et al. 2019, arXiv:1910.01108), ESM (Rives et al. 2021, 10.1073/pnas.2016239118; Lin et al. 2023,
10.1126/science.ade2574) with rotary positions (Su et al. 2021, arXiv:2104.09864).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from penstock.errors import WeightsError
from penstock.models import embedding
from penstock.models.catalogue import folder_of, verify
from penstock.models.device import sent
from penstock.models.transformer import shape_of, weights_bytes

if TYPE_CHECKING:
    import torch

__all__ = ["FAMILIES", "Compute", "Family", "Network", "States", "batches", "loaded", "unknown"]

Ints = npt.NDArray[np.int64]
Compute = Literal["float32", "bfloat16", "float16", "int8"]

States = Callable[[Ints, Ints], "torch.Tensor"]
"""A live network: token ids of rows one after the other, ``"(row token)"``, and the length of each row, ``"row"``, to
hidden states, ``"(row token) dim"``. Rows of equal length should be neighbours."""

_PRIVATE_BYTES = 1 << 30  # larger weights stay in the file's pages, which all processes of a node share


@dataclass(frozen=True, slots=True)
class Family:
    """Where networks of one ``model_type`` keep their layers, and how these are joined.

    Attributes:
        layer: before the names of a layer's tensors; ``{}`` stands for its number.
        query, key, value, joined: of attention, without ``.weight`` and ``.bias``.
        attention_norm: the LayerNorm of attention.
        up, down: of the feed-forward network.
        norm: the LayerNorm of the feed-forward network.
        before: whether the LayerNorms stand before attention and feed-forward network, not after their sums.
        last: the LayerNorm after all layers; empty for none.
        heads_key, inner_key, activation_key: what ``config.json`` calls them.
    """

    layer: str = "encoder.layer.{}."
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    joined: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    norm: str = "output.LayerNorm"
    before: bool = False
    last: str = ""
    heads_key: str = "num_attention_heads"
    inner_key: str = "intermediate_size"
    activation_key: str = "hidden_act"


_BERT = Family()

FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "camembert": _BERT,
    "distilbert": Family(
        "transformer.layer.{}.",
        "attention.q_lin",
        "attention.k_lin",
        "attention.v_lin",
        "attention.out_lin",
        "sa_layer_norm",
        "ffn.lin1",
        "ffn.lin2",
        "output_layer_norm",
        heads_key="n_heads",
        inner_key="hidden_dim",
        activation_key="activation",
    ),
    "electra": _BERT,
    "esm": Family(
        attention_norm="attention.LayerNorm", norm="LayerNorm", before=True, last="encoder.emb_layer_norm_after"
    ),
    "roberta": _BERT,
    "xlm-roberta": _BERT,
}

_ACTIVATIONS = ("gelu", "relu")  # those that oneDNN fuses with the same result


def unknown(model: str) -> str:
    """Why *model* cannot run packed, by its ``config.json``; empty when it can. Torch is not needed."""
    config = json.loads((folder_of(model) / "config.json").read_bytes())
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        return f"model_type is {kind!r}, packed ones are {', '.join(FAMILIES)}"
    if config.get("is_decoder") or config.get("add_cross_attention"):
        return "it is a decoder"
    try:
        embedding.architecture_of(model)
    except WeightsError as error:
        return str(error)
    activation = _activation(config, FAMILIES[kind])
    return "" if activation in _ACTIVATIONS else f"its activation is {activation!r}, packed ones are gelu and relu"


def _activation(config: Mapping[str, Any], family: Family) -> str:
    if config.get("model_type") == "esm":
        return "gelu"  # its module does not look at the config
    return str(config.get(family.activation_key) or "gelu")


# --- linear layers ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plain:
    """A linear layer by torch's own functions: on a GPU, and in 16 bits."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        return functional.linear(given, self.weight, self.bias)

    def activated(self, given: torch.Tensor, activation: str) -> torch.Tensor:
        from torch.nn import functional

        found: torch.Tensor = getattr(functional, activation)(self(given))
        return found

    def added(self, given: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return self(given).add_(other)


@dataclass(frozen=True, slots=True)
class _Onednn:
    """A linear layer in float32 by oneDNN; weights as they lie in the file, or packed for it."""

    weight: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def packed(cls, weight: torch.Tensor, bias: torch.Tensor, rows: int) -> _Onednn:
        import torch

        return cls(torch.ops.mkldnn._reorder_linear_weight(weight, rows), bias)

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.ops.mkldnn._linear_pointwise.default(given, self.weight, self.bias, "none", [], "")

    def activated(self, given: torch.Tensor, activation: str) -> torch.Tensor:
        import torch

        return torch.ops.mkldnn._linear_pointwise.default(given, self.weight, self.bias, activation, [], "none")

    def added(self, given: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        import torch

        # Named, since the search among overloads formats tensors for an error message and takes milliseconds.
        return torch.ops.mkldnn._linear_pointwise.binary(given, other, self.weight, self.bias, "add")


@dataclass(frozen=True, slots=True)
class _Int8(_Plain):
    """A linear layer in whole numbers: weights scaled by output, a batch's tokens by their largest number."""

    @classmethod
    def of(cls, weight: torch.Tensor, bias: torch.Tensor) -> _Int8:
        import torch

        scales = weight.abs().amax(1).clamp_min(1e-12).double() / 127
        zeros = torch.zeros(len(scales), dtype=torch.long)
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = "onednn"
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.quantize_per")  # deprecated, with nothing instead
                whole = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
            return cls(torch.ops.quantized.linear_prepack(whole, bias), bias)
        finally:
            torch.backends.quantized.engine = before

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.ops.quantized.linear_dynamic(given, self.weight, False)


Linear = _Plain | _Onednn


@dataclass(frozen=True)
class _Maker:
    """How linear layers are made on one device for one number format."""

    device: str
    compute: Compute
    private: bool

    def linear(self, *terms: tuple[torch.Tensor, torch.Tensor]) -> Linear:
        """One layer of all *terms*, weights and biases, one below the other."""
        import torch

        weight, bias = terms[0] if len(terms) == 1 else (torch.cat(part) for part in zip(*terms, strict=True))
        if self.compute == "int8":
            return _Int8.of(weight.float(), bias.float())
        weight, bias = self.settled(weight), self.settled(bias)
        if self.compute == "float32" and self.device == "cpu" and _has_onednn():
            return _Onednn.packed(weight, bias, _ROWS) if self.private else _Onednn(weight, bias)
        return _Plain(weight, bias)

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden states."""
        import torch

        found: torch.dtype = torch.float32 if self.compute == "int8" else getattr(torch, self.compute)
        return found

    def settled(self, tensor: torch.Tensor) -> torch.Tensor:
        """*tensor* in the format of the computation, on its device."""
        return tensor.to(self.device, self.dtype)


_ROUND = 8  # A few spare tokens: oneDNN makes code for each number of them, and keeps 1024 pieces of it
_ROWS = 256  # tokens for which oneDNN packs weights; any number may come


def _has_onednn() -> bool:
    import platform

    import torch

    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return there and platform.machine() in ("x86_64", "AMD64")


# --- the network -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Norm:
    """A LayerNorm."""

    scale: torch.Tensor
    shift: torch.Tensor
    eps: float

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        return functional.layer_norm(given, self.scale.shape, self.scale, self.shift, self.eps)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer; *heads* has one linear layer for query, key and value together, or one for each."""

    heads: tuple[Linear, ...]
    joined: Linear
    attention_norm: _Norm
    up: Linear
    down: Linear
    norm: _Norm

    def after(self, states: torch.Tensor, attention: Attention, activation: str) -> torch.Tensor:
        """The LayerNorms stand after each sum: BERT."""
        states = self.attention_norm(self.joined.added(attention(self.thirds(states)), states))
        return self.norm(self.down.added(self.up.activated(states, activation), states))

    def before(self, states: torch.Tensor, attention: Attention, activation: str) -> torch.Tensor:
        """The LayerNorms stand before each half: ESM."""
        states = self.joined.added(attention(self.thirds(self.attention_norm(states))), states)
        return self.down.added(self.up.activated(self.norm(states), activation), states)

    def thirds(self, states: torch.Tensor) -> Sequence[torch.Tensor]:
        """Query, key and value, each ``"token dim"``."""
        found = [linear(states) for linear in self.heads]
        return found if len(found) == 3 else found[0].chunk(3, 1)


Attention = Callable[[Sequence["torch.Tensor"]], "torch.Tensor"]
"""From query, key and value, ``"token dim"``, to what is attended to, ``"token dim"``."""


@dataclass(frozen=True)
class Network:
    """A loaded encoder: its embedding, and the layers up to the one whose states are wanted."""

    architecture: embedding.Architecture
    embedding: embedding.Weights
    layers: tuple[_Layer, ...]
    last: _Norm | None
    heads: int
    activation: str
    before: bool
    rotary_base: float
    device: str
    dtype: torch.dtype

    def states(self, ids: Ints, lengths: Ints) -> torch.Tensor:
        """Token ids of rows one after the other, ``"(row token)"``, to hidden states, ``"(row token) dim"``."""
        import torch

        count, spare = len(ids), -len(ids) % _ROUND if self.device == "cpu" else 0
        if spare:
            ids, lengths = np.append(ids, np.full(spare, self.architecture.padding)), np.append(lengths, spare)
        with torch.inference_mode():
            found = embedding.summed(self.architecture, self.embedding, embedding.Text(ids, lengths)).to(self.dtype)
            attention = self._attention(lengths)
            for layer in self.layers:
                step = layer.before if self.before else layer.after
                found = step(found, attention, self.activation)
            return (found if self.last is None else self.last(found))[:count]

    def _attention(self, lengths: Ints) -> Attention:
        groups = _varlen(lengths, self.device, self.dtype) or _Groups.of(lengths)
        turned = (
            _Turned.of(lengths, self.width // self.heads, self.rotary_base, self.device) if self.rotary_base else None
        )

        def attention(thirds: Sequence[torch.Tensor]) -> torch.Tensor:
            query, key, value = (third.unflatten(1, (self.heads, -1)) for third in thirds)
            if turned:
                query, key = turned(query), turned(key)
            return groups(query, key, value).flatten(1)

        return attention

    @property
    def width(self) -> int:
        """Dimensions of a hidden state."""
        return self.architecture.width


@dataclass(frozen=True)
class _Groups:
    """Attention for each group of neighbouring rows of equal length."""

    groups: Sequence[tuple[int, int, int]]

    @classmethod
    def of(cls, lengths: Ints) -> _Groups:
        """First token, rows and length of each group."""
        firsts = np.flatnonzero(np.diff(lengths, prepend=-1))
        counts = np.diff(np.append(firsts, len(lengths)))
        starts = (np.cumsum(lengths) - lengths)[firsts]
        return cls(list(zip(starts.tolist(), counts.tolist(), lengths[firsts].tolist(), strict=True)))

    def __call__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Query, key and value, ``"token head dim"``, to the same shape."""
        import torch

        found = [self._one(group, query, key, value) for group in self.groups]
        return found[0] if len(found) == 1 else torch.cat(found)

    @staticmethod
    def _one(group: tuple[int, int, int], *thirds: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        start, rows, length = group
        parts = (x[start : start + rows * length].unflatten(0, (rows, length)).transpose(1, 2) for x in thirds)
        return functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(0, 1)


def _varlen(lengths: Ints, device: str, dtype: torch.dtype) -> Any:
    """Attention over rows of any lengths in one call, by FlashAttention (arXiv:2205.14135); only on a GPU in 16 bits.

    See https://docs.pytorch.org/docs/stable/nn.attention.varlen.html (torch 2.10 and later).
    """
    import torch

    if device != "cuda" or dtype == torch.float32 or find_spec("torch.nn.attention.varlen") is None:
        return None
    from torch.nn.attention.varlen import varlen_attn

    ends = sent(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), device)
    longest = int(lengths.max())
    return lambda query, key, value: varlen_attn(query, key, value, ends, ends, longest, longest)


@dataclass(frozen=True)
class _Turned:
    """Queries or keys turned by their tokens' positions, in float32 as ESM does it."""

    cosines: torch.Tensor
    sines: torch.Tensor

    @classmethod
    def of(cls, lengths: Ints, size: int, base: float, device: str) -> _Turned:
        """For heads of *size* dimensions; the angles are ``"token 1 dim/2"``."""
        import torch

        rates = 1.0 / (base ** (torch.arange(0, size, 2, dtype=torch.float) / size))
        places = torch.arange(int(lengths.max())).float()
        angles = (places[:, None] * rates).to(device)[sent(embedding.steps(lengths), device), None]
        return cls(angles.cos(), angles.sin())

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        """``"token head dim"`` to the same shape."""
        import torch

        left, right = given.float().chunk(2, 2)
        found = torch.cat((left * self.cosines - right * self.sines, right * self.cosines + left * self.sines), 2)
        return found.to(given.dtype)


# --- loading ---------------------------------------------------------------------------------------------


def loaded(model: str, layer: int = -1, device: str = "cpu", compute: Compute = "float32") -> Network:
    """The network of *model* up to *layer*.

    Weights are mapped into memory from their file. Those of up to 1 GiB are packed for the processor, which takes
    memory of its own; larger ones stay mapped, and the processes of a node share them.

    Args:
        model: a name of the catalogue, or a folder; `unknown` has nothing against it.
        layer: the hidden states wanted, 0 for the embedding, -1 for the last.
        device: ``cpu`` or ``cuda``.
        compute: the number format of the layers; the embedding is summed in float32.

    Raises:
        WeightsError: weights are missing, damaged, unsafe or of another size than ``config.json`` says.
    """
    verify(model)
    config, found = json.loads((folder_of(model) / "config.json").read_bytes()), embedding.architecture_of(model)
    family, count = FAMILIES[config["model_type"]], shape_of(model).layers
    wanted = layer if layer >= 0 else count + 1 + layer
    maker = _Maker(device, compute, weights_bytes(model) <= _PRIVATE_BYTES)
    weights = _Weights(embedding.Tensors.of(folder_of(model), found.family.prefix), config, family, maker, found)
    return Network(
        found,
        embedding.loaded(model, found).to(device),
        tuple(weights.layer(number) for number in range(wanted)),
        weights.norm(family.last) if family.last and wanted == count else None,
        config[family.heads_key],
        _activation(config, family),
        family.before,
        _rotary_base(config),
        device,
        maker.dtype,
    )


def _rotary_base(config: Mapping[str, Any]) -> float:
    if config.get("position_embedding_type") != "rotary":
        return 0.0
    return float(config.get("rope_theta") or 10000.0)


@dataclass(frozen=True)
class _Weights:
    """The layers of a folder, made when they are asked for."""

    tensors: embedding.Tensors
    config: Mapping[str, Any]
    family: Family
    maker: _Maker
    architecture: embedding.Architecture

    def layer(self, number: int) -> _Layer:
        family, prefix, width = self.family, self.family.layer.format(number), self.architecture.width
        inner = int(self.config[family.inner_key])
        thirds = [self._terms(prefix + name, width, width) for name in (family.query, family.key, family.value)]
        make = self.maker.linear
        return _Layer(
            (make(*thirds),) if self.maker.private else tuple(make(third) for third in thirds),
            make(self._terms(prefix + family.joined, width, width)),
            self.norm(prefix + family.attention_norm),
            make(self._terms(prefix + family.up, inner, width)),
            make(self._terms(prefix + family.down, width, inner)),
            self.norm(prefix + family.norm),
        )

    def _terms(self, name: str, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.tensors.needed(f"{name}.weight", (rows, columns)), self.tensors.needed(f"{name}.bias", (rows,))

    def norm(self, name: str) -> _Norm:
        width = self.architecture.width
        scale, shift = (self.tensors.needed(f"{name}.{part}", (width,)) for part in ("weight", "bias"))
        return _Norm(self.maker.settled(scale), self.maker.settled(shift), self.architecture.eps)


# --- batches ---------------------------------------------------------------------------------------------


def batches(lengths: Ints, budget: int) -> Iterator[Ints]:
    """Rows in batches of at most *budget* tokens; one longer row stands alone.

    The longest come first: what does not fit in memory shows at once. Equal lengths keep their order.
    """
    order = np.argsort(-lengths, kind="stable")
    ends, start = np.cumsum(lengths[order]), 0
    while start < len(order):
        before = ends[start] - lengths[order[start]]
        stop = max(start + 1, int(np.searchsorted(ends, before + budget, "right")))
        yield order[start:stop]
        start = stop
