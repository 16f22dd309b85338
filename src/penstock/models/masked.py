"""Masked language models: which tokens are hidden, and networks that guess them.

Devlin, Chang, Lee and Toutanova (2018), https://arxiv.org/abs/1810.04805, section 3.1. Tokens are hidden anew each
time that a text is seen, as in Liu et al. (2019), https://arxiv.org/abs/1907.11692, section 4.1.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.errors import WeightsError
from penstock.models import tokenizer, transformer
from penstock.models.catalogue import CATALOGUE, folder_of, tokenizer_folder_of

__all__ = [
    "IGNORED",
    "Fresh",
    "Ints",
    "Words",
    "hashes_of",
    "hidden",
    "network_of",
    "save",
    "shape_of",
    "words_of",
]

Ints: TypeAlias = npt.NDArray[np.int64]

IGNORED = -100
"""The target of a token that need not be guessed, as torch's cross entropy has it."""

_MASKS = ("[MASK]", "<mask>")
_SPECIAL = frozenset(
    {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<pad>", "<unk>", "<cls>", "<eos>", "<mask>", "<s>", "</s>",
     "<null_1>"}
)  # fmt: skip
_BESIDE = (
    "README.md",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


@dataclass(frozen=True)
class Fresh:
    """A new BERT over single letters, its weights drawn at random.

    Attributes:
        residues: whose letters are its tokens, as the tokenizers ``residue:protein`` and so on have them.
        width: dimensions of a hidden state.
        layers: of attention.
        heads: in each layer; *width* is a multiple of it.
        longest: tokens that a text may have, the two special ones included.
    """

    residues: Literal["protein", "dna", "rna"]
    width: int = 128
    layers: int = 4
    heads: int = 4
    longest: int = 512

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads) < 1 or self.longest < 3 or self.width % self.heads:
            raise ValueError(
                f"width {self.width}, layers {self.layers}, heads {self.heads} and longest {self.longest}: all must be "
                "above 0, longest at least 3, and width a multiple of heads"
            )

    @property
    def tokenizer(self) -> str:
        """The name of its tokenizer."""
        return f"residue:{self.residues}"


@dataclass(frozen=True)
class Words:
    """What may be hidden.

    Attributes:
        mask: the token that stands for a hidden one.
        special: tokens that are never hidden and never put in another's place, ``"token"``.
        plain: all others, ``"token"``.
    """

    mask: int
    special: Ints
    plain: Ints


def words_of(model: str | Fresh) -> Words:
    """The vocabulary of *model*.

    Raises:
        WeightsError: it has no token for hidden ones.
    """
    live = tokenizer.load(model.tokenizer if isinstance(model, Fresh) else model)
    known: Mapping[str, int] = live.get_vocab()
    mask = next((known[name] for name in _MASKS if name in known), None)
    if mask is None:
        raise WeightsError(f"the vocabulary of {model} has neither [MASK] nor <mask>, one of them was needed")
    special = sorted({number for token, number in known.items() if token in _SPECIAL} | {*tokenizer.frame_of(live)})
    plain = sorted({number for number in known.values() if number < shape_of(model).vocabulary} - {*special})
    return Words(mask, np.array(special), np.array(plain))


def hidden(ids: Ints, words: Words, share: float, random: np.random.Generator) -> tuple[Ints, Ints]:
    """What the network sees, and what it must guess, both ``"row token"``; -1 in *ids* fills up short rows.

    A *share* of the tokens is to be guessed; of these 80 % are hidden, 10 % are replaced by others and 10 % stay.
    """
    draws, how = random.random(ids.shape), random.random(ids.shape)
    others = words.plain[random.integers(len(words.plain), size=ids.shape)]
    asked = (draws < share) & (ids >= 0) & ~np.isin(ids, words.special)
    seen = np.where(asked & (how < 0.8), words.mask, np.where(asked & (how >= 0.9), others, ids))
    return seen, np.where(asked, ids, IGNORED)


# --- networks --------------------------------------------------------------------------------------------


def shape_of(model: str | Fresh) -> transformer.Shape:
    """The sizes of *model*; torch is not needed."""
    if isinstance(model, Fresh):
        return transformer.Shape(model.width, model.layers, len(_tokens(model)), model.longest, 0)
    return transformer.shape_of(model)


def _tokens(model: Fresh) -> list[str]:
    known: Mapping[str, int] = tokenizer.load(model.tokenizer).get_vocab()
    return sorted(known, key=lambda token: known[token])


def hashes_of(model: str | Fresh) -> Mapping[str, str]:
    """What the network depends on beside its settings."""
    if isinstance(model, Fresh):
        return tokenizer.tokenizer_hashes(model.tokenizer)
    return {**transformer.weights_hashes(model), **tokenizer.tokenizer_hashes(model)}


def network_of(model: str | Fresh, seed: int) -> Any:
    """The network with a head that guesses tokens; what has no weights yet is drawn at random by *seed*.

    Raises:
        WeightsError: weights are missing, damaged or unsafe.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _drawn(model) if isinstance(model, Fresh) else _loaded(model)


def _drawn(model: Fresh) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=len(_tokens(model)),
        hidden_size=model.width,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        intermediate_size=4 * model.width,
        max_position_embeddings=model.longest,
        pad_token_id=0,
    )
    return BertForMaskedLM(config)


def _loaded(model: str) -> Any:
    """As `penstock.models.transformer` loads an encoder; its head may be missing, its layers may not."""
    from transformers import AutoModelForMaskedLM

    network, missing = transformer.loaded(model, AutoModelForMaskedLM)
    body = f"{network.base_model_prefix}."
    transformer.complete(folder_of(model), {name.removeprefix(body) for name in missing if name.startswith(body)})
    return network


def save(network: Any, model: str | Fresh, folder: Path) -> None:
    """Write *network* in the Hugging Face layout, with the tokenizer of *model*, which it started from."""
    with transformer.quiet():
        network.save_pretrained(folder)
    if isinstance(model, Fresh):
        (folder / "vocab.txt").write_text("\n".join(_tokens(model)), encoding="utf-8")
        return
    for source in (tokenizer_folder_of(model), folder_of(model)):
        for path in (source / name for name in _BESIDE):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
    if model in CATALOGUE:
        entry = CATALOGUE[model]
        card = f"---\nlicense: {entry.licence}\n---\nTrained on from {entry.name}: {entry.citation}\n"
        (folder / "README.md").write_text(card, encoding="utf-8")
