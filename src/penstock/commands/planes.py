"""``penstock planes fit|info``: planes of a locality-sensitive hash of k-mers, fitted to data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer

from penstock.commands.telling import out, told
from penstock.core import spec
from penstock.core.batch import field_of
from penstock.core.nouns import Batch, Pipeline, Source, Unit
from penstock.errors import RowErrors, SpecError
from penstock.models import planes as hashes
from penstock.models.kmers import LONGEST, Letters

__all__ = ["planes"]

planes = typer.Typer(no_args_is_help=True, help="Planes of a locality-sensitive hash of k-mers.")

_SOURCE = """FASTA or FASTQ files, a folder, a glob or an s3:// prefix; FILE.toml or FILE.toml#PIPELINE takes that
pipeline's source; or a source as in pipeline files: '{ use = "jsonl", uri = "...", columns = { ... } }'."""


@planes.command()
def fit(
    source: Annotated[str, typer.Argument(help=_SOURCE, show_default=False)],
    *,
    to: Annotated[str, typer.Option("--out", help="The file to make, .npz, or s3://...", show_default=False)],
    k: Annotated[int, typer.Option("--k", help="Bases in a k-mer.", min=2, max=LONGEST)] = 23,
    bits: Annotated[int, typer.Option(help="Bits of a band: a plane for each.", min=1, max=63)] = 22,
    bands: Annotated[int, typer.Option(help="Hashes of one k-mer; 1 is LSHvec's own.", min=1, max=63)] = 1,
    seed: Annotated[int, typer.Option(help="Of what is drawn.", min=0)] = 0,
    column: Annotated[str, typer.Option(help="The sequences.")] = "sequence",
    bases: Annotated[int, typer.Option(help="Look at so many bases, of units drawn at random.", min=1)] = 50_000_000,
) -> None:
    """Put planes through k-mers of the data, for `kmer` with planes = "FILE".

    Other planes at the same place are never written over, since models depend on them.
    """
    with told():
        given = _source(source)
        field_of(given.schema(), column, "planes fit", pa.string(), pa.large_string())
        letters = Letters.of(_sequences(given, column, bases, seed))
        try:
            fitted = hashes.fit(letters, k, bits, bands=bands, seed=seed, source=given.uri)
        except ValueError as error:
            raise SpecError(str(error)) from error
        hashes.save(fitted, to)
        out.print(f"{to}: {_words(fitted)}, fitted to {len(letters.values):,} bases")


@planes.command()
def info(uri: Annotated[str, typer.Argument(help="A file of planes.", show_default=False)]) -> None:
    """Say what planes are: k, bits, bands, where they come from, and the scheme of a table for them."""
    with told():
        found = hashes.load(uri)
        out.print(f"{uri}: {_words(found)}, seed {found.seed}, fitted to {found.source or 'unnamed data'}")
        out.print(f'scheme = {{ kind = "bands", bands = {found.bands}, bits = {found.bits} }}', markup=False)
        out.print(f"sha256 {found.sha256}")


def _words(found: hashes.Planes) -> str:
    return f"k = {found.span}, {found.bands} x {found.bits} bits"


def _source(text: str) -> Source:
    file, _, name = text.partition("#")
    if Path(file).suffix in (".toml", ".yaml", ".yml"):
        return _pipeline(spec.load(file), file, name).source
    if not text.lstrip().startswith("{"):
        last = text.removesuffix(".gz")
        text = f'{{ use = "{"fastq" if last.endswith((".fq", ".fastq")) else "fasta"}", uri = "{text}" }}'
    line = f'source = {text}\nsink = {{ use = "parquet", uri = "unused" }}\n'
    return spec.loads(line, name="SOURCE", folder=Path.cwd()).pipelines[0].source


def _pipeline(found: spec.Spec, file: str, name: str) -> Pipeline:
    if name:
        return found.pipeline(name)
    if len(found.pipelines) != 1:
        raise SpecError(f"{file} has {len(found.pipelines)} pipelines; name one: {file}#{found.pipelines[0].name}")
    return found.pipelines[0]


def _sequences(source: Source, column: str, bases: int, seed: int) -> pa.ChunkedArray:
    """The sequences of units in an order drawn by *seed*, until there are so many bases; longer ones are cut."""
    units, left, found = list(source.units()), bases, list[str]()
    for at in np.random.default_rng(seed).permutation(len(units)):
        for text in _read(source, units[at])[column].to_pylist():
            found.append((text or "")[:left])
            left -= len(found[-1])
        if not left:
            break
    return pa.chunked_array([pa.array(found, pa.large_string())])


def _read(source: Source, unit: Unit) -> Batch:
    """A unit without its bad rows, which a pipeline would quarantine."""
    try:
        return source.read(unit)
    except RowErrors as error:
        return error.good
