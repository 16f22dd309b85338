"""Tokenizers: a model's own ``tokenizer.json``, ESM's ``vocab.txt``, or one token for each residue.

Format of ``tokenizer.json``: https://huggingface.co/docs/tokenizers; built and run by its Rust library. ESM's tokenizer
(https://huggingface.co/docs/transformers/model_doc/esm) is Python alone and has no such file, so it is built here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
_ESM = {"cls": "<cls>", "eos": "<eos>", "unk": "<unk>"}
_LIMITS = (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length"))


def load(name: str) -> Tokenizer:
    """The tokenizer called *name*: a model of the catalogue, a folder, or ``residue:protein|dna|rna``.

    A folder has ``tokenizer.json``, or a ``vocab.txt`` of ESM's kind (with ``<cls>``) or of single letters.

    Neither pads nor truncates, whatever its file says.

    Raises:
        WeightsError: there is none of that name, or its files cannot be understood.
    """
    from tokenizers import Tokenizer

    if name.startswith(_PLAIN):
        return _per_residue([*_SPECIAL, *_letters(name)])
    path = _file_of(name)
    if path.name == "vocab.txt":
        tokens = _vocabulary(path)
        return _longest_first(tokens, _Frame.of(path.parent)) if _is_esm(tokens) else _per_residue(_letters_of(path))
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
    """What the tokens depend on: the hash of the tokenizer's file, or its letters; ESM's special tokens too."""
    if name.startswith(_PLAIN):
        return {name: _letters(name)}
    path = _file_of(name)
    asked = path.name == "vocab.txt" and _is_esm(_vocabulary(path))
    return {path.name: hash_of(path)} | ({"longest first": str(_Frame.of(path.parent))} if asked else {})


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


def _vocabulary(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]


def _letters_of(path: Path) -> list[str]:
    tokens = _vocabulary(path)
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


# --- ESM and DNA models of its architecture --------------------------------------------------------------


def _is_esm(tokens: Sequence[str]) -> bool:
    return _ESM["cls"] in tokens


@dataclass(frozen=True, slots=True)
class _Frame:
    """The special tokens of an ESM tokenizer; the Nucleotide Transformer has none at the end."""

    cls: str | None
    eos: str | None
    unk: str | None

    @classmethod
    def of(cls, folder: Path) -> _Frame:
        """As ``tokenizer_config.json`` has them; what it does not say is as in transformers' EsmTokenizer."""
        path = folder / "tokenizer_config.json"
        told = json.loads(path.read_bytes()) if path.is_file() else {}
        return cls(*(_content(told.get(f"{name}_token", usual)) for name, usual in _ESM.items()))


def _content(token: Any) -> str | None:
    found = token.get("content") if isinstance(token, dict) else token
    return None if found is None else str(found)


def _longest_first(tokens: Sequence[str], frame: _Frame) -> Tokenizer:
    """At each place the longest token that fits, from the left; a stretch where none fits becomes one <unk>."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

    ids = {token: number for number, token in enumerate(tokens)}
    unknown = _present(ids, (frame.unk or _ESM["unk"],))
    found = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    found.add_tokens([AddedToken(token, normalized=False) for token in tokens if token])  # keeps their numbers
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    first, last = ([_present(ids, (token,))] if token else [] for token in (frame.cls, frame.eos))
    around = [(token, ids[token]) for token in dict.fromkeys(first + last)]
    found.post_processor = processors.TemplateProcessing(single=[*first, "$A", *last], special_tokens=around)
    return found


def _present(ids: Mapping[str, int], names: Sequence[str]) -> str:
    for name in names:
        if name in ids:
            return name
    raise WeightsError(f"the vocabulary has none of the tokens {', '.join(names)}; one of them was needed")
