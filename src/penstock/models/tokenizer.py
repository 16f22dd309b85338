"""Tokenizers: a model's own ``tokenizer.json``, or one token for each residue.

Format of ``tokenizer.json``: https://huggingface.co/docs/tokenizers; built and run by its Rust library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from penstock.errors import WeightsError
from penstock.models.catalogue import folder_of, hash_of, tokenizer_folder_of
from penstock.models.transformer import shape_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["RESIDUES", "frame_of", "load", "longest_of", "sides_of", "tokenizer_hashes"]

RESIDUES: Mapping[str, str] = {
    "protein": "ACDEFGHIKLMNPQRSTVWYXBZJUO",
    "dna": "ACGTN",
    "rna": "ACGUN",
}
"""The letters of the tokenizers ``residue:protein`` and so on; their numbers follow the five special tokens."""

_PLAIN = "residue:"
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_FIRST, _LAST, _UNKNOWN = ("[CLS]", "<cls>", "<s>"), ("[SEP]", "<eos>", "</s>"), ("[UNK]", "<unk>")
_LIMITS = (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length"))


def load(name: str) -> Tokenizer:
    """The tokenizer called *name*: a model of the catalogue, a folder, or ``residue:protein|dna|rna``.

    Neither pads nor truncates, whatever its file says.

    Raises:
        WeightsError: there is none of that name, or its files cannot be understood.
    """
    from tokenizers import Tokenizer

    if name.startswith(_PLAIN):
        return _per_residue([*_SPECIAL, *_letters(name)])
    path = _file_of(name)
    if path.name == "vocab.txt":
        return _per_residue(_residue_vocabulary(path))
    try:
        found = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise WeightsError(f"{path}: no tokenizer can be read from it: {error}") from error
    found.no_padding()
    found.no_truncation()
    return found


def frame_of(tokenizer: Tokenizer) -> Sequence[int]:
    """The special tokens that stand around every text, such as [CLS] and [SEP]: the tokens of the empty text."""
    return list(tokenizer.encode("").ids)


def sides_of(name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The special tokens that the tokenizer called *name* puts before a text, and those after it."""
    told = load(name).encode("A")  # any letter: what no vocabulary knows becomes [UNK], which is a token
    before = told.special_tokens_mask.index(0)
    after = len(told.ids) - told.special_tokens_mask[::-1].index(0)
    return np.array(told.ids[:before], np.int64), np.array(told.ids[after:], np.int64)


def longest_of(name: str) -> int:
    """How many tokens, special ones included, the files say that the model takes; 0 sets no limit.

    ``max_seq_length`` of ``sentence_bert_config.json`` comes first: it is what the model was trained for.
    """
    if name.startswith(_PLAIN):
        return 0
    for file, key in _LIMITS:
        path = tokenizer_folder_of(name) / file
        limit = json.loads(path.read_bytes()).get(key) if path.is_file() else None
        if limit and limit < 1 << 30:  # "no limit" is written as 1e30
            return int(limit)
    return shape_of(name).longest if (folder_of(name) / "config.json").is_file() else 0


def tokenizer_hashes(name: str) -> Mapping[str, str]:
    """What the tokens depend on: the hash of the tokenizer's file, or its letters."""
    if name.startswith(_PLAIN):
        return {name: _letters(name)}
    path = _file_of(name)
    return {path.name: hash_of(path)}


def _letters(name: str) -> str:
    kind = name.removeprefix(_PLAIN)
    if kind not in RESIDUES:
        raise WeightsError(f"there is no tokenizer '{name}'; there are: {', '.join(_PLAIN + k for k in RESIDUES)}")
    return RESIDUES[kind]


def _file_of(name: str) -> Path:
    folder = tokenizer_folder_of(name)
    for file in ("tokenizer.json", "vocab.txt"):
        if (folder / file).is_file():
            return folder / file
    raise WeightsError(
        f"{folder}: neither tokenizer.json nor vocab.txt is there; save one beside the model by "
        "transformers.AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
    )


def _residue_vocabulary(path: Path) -> list[str]:
    tokens = [line.strip() for line in path.read_text(encoding="utf-8").rstrip().split("\n")]
    longer = [token for token in tokens if len(token) > 1 and token[0] not in "[<"]
    if longer:
        raise WeightsError(
            f"{path}: has pieces of words ({longer[0]!r}), one letter a token was needed; save tokenizer.json "
            "beside it by transformers.AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        )
    return tokens


def _per_residue(tokens: Sequence[str]) -> Tokenizer:
    """[CLS] letter letter ... [SEP]; white space is skipped, a letter that is not in *tokens* becomes [UNK]."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    ids = {token: number for number, token in enumerate(tokens)}
    first, last, unknown = (_present(ids, names) for names in (_FIRST, _LAST, _UNKNOWN))
    found = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    letters = pre_tokenizers.Split(Regex("."), "isolated")
    found.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), letters])
    frame = [(first, ids[first]), (last, ids[last])]
    found.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=frame)
    return found


def _present(ids: Mapping[str, int], names: Sequence[str]) -> str:
    for name in names:
        if name in ids:
            return name
    raise WeightsError(f"the vocabulary has none of the tokens {', '.join(names)}; one of them was needed")
