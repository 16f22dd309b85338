"""Transformer encoders in the Hugging Face layout: what they are, how they are loaded and run.

Weights come as safetensors (https://huggingface.co/docs/safetensors) or as ``pytorch_model.bin`` that torch
reads with ``weights_only=True``; any other pickle could run code and is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from penstock.errors import WeightsError
from penstock.models.catalogue import folder_of, hash_of, verify
from penstock.models.device import device_of, sent

if TYPE_CHECKING:
    import torch

__all__ = [
    "Hidden",
    "Shape",
    "batches",
    "cause",
    "complete",
    "grid",
    "installed",
    "loaded",
    "opened",
    "quiet",
    "shape_of",
    "weights_bytes",
    "weights_files",
    "weights_hashes",
]

Ints = npt.NDArray[np.int64]

Hidden = Callable[[Ints, npt.NDArray[np.bool_]], "torch.Tensor"]
"""A live network: token ids and which of them are real, ``"row token"``, to hidden states, ``"row token dim"``."""

_WIDTH = ("hidden_size", "n_embd", "d_model", "dim")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_LONGEST = ("max_position_embeddings", "n_positions")
# These families number positions from the padding token's on, so that many places are never used.
_OFFSET = frozenset({"camembert", "esm", "mpnet", "roberta", "xlm-roberta"})


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a network.

    Attributes:
        width: dimensions of a hidden state.
        layers: hidden layers after the token table.
        vocabulary: token ids are below this.
        longest: tokens that a text may have; 0 sets no limit.
        padding: the id that fills up short texts.
    """

    width: int
    layers: int
    vocabulary: int
    longest: int
    padding: int


def shape_of(model: str) -> Shape:
    """The sizes of *model* by its ``config.json``; torch is not needed.

    Raises:
        WeightsError: the file is missing or does not say them, or the network is no encoder of one text.
    """
    path = folder_of(model) / "config.json"
    config = _json(path)
    if config.get("is_encoder_decoder"):
        raise WeightsError(f"{path}: an encoder with a decoder ({config.get('model_type')}); an encoder was needed")
    padding = config.get("pad_token_id") or 0
    longest = _first(config, _LONGEST)
    if longest and config.get("model_type") in _OFFSET:
        longest -= padding + 1
    if config.get("position_embedding_type") == "rotary":
        longest = 0
    return Shape(
        _needed(path, config, _WIDTH),
        _needed(path, config, _LAYERS),
        _needed(path, config, ("vocab_size",)),
        longest,
        padding,
    )


def _json(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); a model folder needs config.json") from error
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON: {error}; fetch the model again") from error
    return data if isinstance(data, dict) else {}


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    return next((config[name] for name in names if isinstance(config.get(name), int)), 0)


def _needed(path: Path, config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    found = _first(config, names)
    if found < 1:
        raise WeightsError(f"{path}: has none of {', '.join(names)}; a transformer's config was needed")
    return found


# --- weights ---------------------------------------------------------------------------------------------


def weights_files(folder: Path) -> list[Path]:
    """The files that hold the weights, best format first."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(_json(index).get("weight_map", {}).values()))]
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
    found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise WeightsError(
        f"{folder}: found {found}; model.safetensors or pytorch_model.bin was needed "
        "(other pickles can run code and are not read): save it by model.save_pretrained(folder)"
    )


def weights_bytes(model: str) -> int:
    """Size of the weights in memory as float32; of a ``.bin`` the file's size stands for it."""
    return sum(_float32_bytes(path) for path in weights_files(folder_of(model)))


def _float32_bytes(path: Path) -> int:
    if path.suffix != ".safetensors":
        return path.stat().st_size
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return 4 * sum(int(np.prod(entry["shape"])) for name, entry in header.items() if name != "__metadata__")


def weights_hashes(model: str) -> Mapping[str, str]:
    """sha256 (hex) of config and weights, by file name. Raises `WeightsError` when they are not the pinned ones."""
    verify(model)
    folder = folder_of(model)
    return {path.name: hash_of(path) for path in [folder / "config.json", *weights_files(folder)]}


# --- running ---------------------------------------------------------------------------------------------


@contextmanager
def opened(
    model: str, layer: int = -1, device: str = "auto", threads: int = 0, compute: str = "float32"
) -> Iterator[Hidden]:
    """The live network of *model*.

    Args:
        model: a name of the catalogue, or a folder.
        layer: the hidden states wanted, 0 for the token table, -1 for the last.
        device: ``auto`` takes a GPU where torch sees one.
        threads: of torch on the CPU, for the whole process while this is open; 0 leaves them.
        compute: the number format that weights are turned into: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        WeightsError: packages or weights are missing, damaged or unsafe.
        PlanError: ``cuda`` was asked for, and torch sees none.
    """
    torch = installed()
    place = device_of(device, "step")
    network = _load(model).to(place, getattr(torch, compute))
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield lambda ids, mask: _hidden(network, torch, layer, ids, mask)
    finally:
        torch.set_num_threads(before)
        network.to("meta")  # frees the weights, even where the live function is still held
        if place == "cuda":
            torch.cuda.empty_cache()


def installed() -> Any:
    """Torch. Raises `WeightsError` when it or transformers is not installed."""
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise WeightsError(f"encode needs {error.name}: pip install 'penstock[models]'") from error
    return torch


def _load(model: str) -> Any:
    """The network in evaluation mode, with every weight accounted for."""
    from transformers import AutoModel

    network, missing = loaded(model, AutoModel)
    complete(folder_of(model), missing)
    return network.eval()


def loaded(model: str, kind: Any) -> tuple[Any, set[str]]:
    """The network of *model* in float32, as *kind* (one of transformers' Auto classes), and weights that are lacking.

    Code that comes with a model is never run, and nothing is fetched.

    Raises:
        WeightsError: weights are missing, damaged or unsafe.
    """
    verify(model)
    folder = folder_of(model)
    safe = all(path.suffix == ".safetensors" for path in weights_files(folder))
    try:
        with quiet():
            network, told = kind.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=safe,
                weights_only=True,
                dtype="float32",
                output_loading_info=True,
            )
    except Exception as error:  # whatever a damaged or hostile file provokes
        raise WeightsError(f"{folder}: the weights cannot be loaded: {cause(error)}") from error
    return network, set(told["missing_keys"])


def cause(error: Exception) -> str:
    """Why, without the libraries' advice to trust the file."""
    text = " ".join(str(error).split())
    if "weights_only" in text:
        return "the file holds more than weights and could run code; get the model as model.safetensors"
    if "trust_remote_code" in text:
        return "the model needs code of its own, which is never run; choose an architecture that transformers has"
    return f"{text[:300] or type(error).__name__}; the file is damaged or belongs to another model, fetch it again"


def complete(folder: Path, missing: set[str]) -> None:
    """Refuse weights with holes. The pooler is not used, and many encoders come without one."""
    lost = sorted(name for name in missing if not name.startswith("pooler."))
    if lost:
        raise WeightsError(
            f"{folder}: {len(lost)} weights are missing, the first is {lost[0]}; they would be random numbers: "
            "the file belongs to another config.json or is incomplete, fetch the model again"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's progress bar and its report on weights that are left over."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _hidden(network: Any, torch: Any, layer: int, ids: Ints, mask: npt.NDArray[np.bool_]) -> Any:
    with torch.inference_mode():
        given = {
            "input_ids": sent(ids, network.device),
            "attention_mask": sent(mask.astype(np.int64), network.device),
        }
        if layer == -1:
            return network(**given).last_hidden_state
        return network(**given, output_hidden_states=True).hidden_states[layer]


# --- packing ---------------------------------------------------------------------------------------------


def batches(lengths: Ints, budget: int) -> Iterator[Ints]:
    """Rows in batches of at most *budget* tokens, padding counted; one longer row stands alone.

    The longest come first: what does not fit in memory shows at once. Equal lengths keep their order.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + max(1, budget // max(1, int(lengths[order[start]])))
        yield order[start:stop]
        start = stop


def grid(offsets: Ints, rows: Ints) -> Ints:
    """Where the tokens of *rows* stand in the flat column, ``"row token"``; -1 fills up to the longest row."""
    starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    steps = np.arange(lengths.max(initial=0))
    return np.where(steps < lengths[:, None], starts[:, None] + steps, -1)
