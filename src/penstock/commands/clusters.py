"""The clusters that a command works on: those that a pipeline file names, or one that is given in words."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from penstock.core import plugins, spec
from penstock.core.nouns import Cluster
from penstock.errors import SpecError

__all__ = ["ClusterWords", "cluster_of", "clusters_of", "words_of"]

ClusterWords = Annotated[
    list[str] | None,
    typer.Option("--cluster", help="A cluster as in a pipeline file: 'slurm host=hpc partition=c7'.", metavar="WORDS"),
]


def cluster_of(words: str) -> Cluster:
    """The cluster that *words* describe: its name, then ``key=value``, values as in TOML or plain text.

    Raises:
        SpecError: they describe none.
    """
    use, *rest = shlex.split(words) or [""]
    if wrong := [word for word in rest if "=" not in word]:
        raise SpecError(f"--cluster {words!r}: '{wrong[0]}' is no key=value; write for example 'slurm host=hpc'")
    body = {key: spec.value_of(text) for key, text in (word.split("=", 1) for word in rest)}
    adapter: TypeAdapter[Cluster] = TypeAdapter(plugins.ClusterField)
    try:
        return adapter.validate_python({"use": use, **body}, context={"folder": str(Path.cwd())})
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{key}: " for key in first["loc"])
        raise SpecError(f"--cluster {words!r}: {where}{first['msg'].removeprefix('Value error, ')}") from error


def clusters_of(file: Path | None, words: Sequence[str] | None) -> list[Cluster]:
    """The clusters of a pipeline file and those in words, each once; without both, those of this machine.

    Raises:
        SpecError: the file cannot be understood, or names none.
    """
    found = [cluster for pipeline in spec.load(file).pipelines for cluster in pipeline.clusters] if file else []
    if file and not found:
        raise SpecError(f"{file}: no step names a cluster; name one by --cluster 'slurm host=hpc'")
    found += [cluster_of(one) for one in words or ()]
    return [one for at, one in enumerate(found) if one not in found[:at]] or [cluster_of("local")]


def words_of(cluster: Cluster) -> str:
    """A cluster in words, as short as it is known."""
    plain: dict[str, Any] = plugins.describe(cluster)
    host = plain.get("host", "")
    return f"{plugins.called('clusters', cluster)}{f' {host}' if host else ''}"
