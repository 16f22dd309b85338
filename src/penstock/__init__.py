"""Penstock: the pipe between a data lake and a numerical solver."""

from __future__ import annotations

from penstock.core.nouns import Batch, Pipeline, Place, Step, Unit
from penstock.core.spec import Spec, dump, load
from penstock.reading import Dataset, read

__all__ = ["Batch", "Dataset", "Pipeline", "Place", "Spec", "Step", "Unit", "dump", "load", "read"]
