"""Seeds to velocity fields by a trained generator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from penstock.core.batch import adding, field_of, pick, tensor_column, tensor_type, to_numpy, with_columns
from penstock.core.dataset import is_promised, schema_of
from penstock.core.nouns import Batch, Licence, Transform
from penstock.core.storage import Uri
from penstock.errors import RowErrors
from penstock.models import generator
from penstock.models.generator import Config, Generator

__all__ = ["Generate"]


@dataclass(frozen=True)
class Generate:
    """Add the column ``velocity``: a field of plane flow for each ``seed``, u and v, float32, ``"2 y x"``.

    A field depends on its seed, its viscosity and the weights alone, not on the rows beside it; on one machine the same
    bits, whatever the number of threads. The viscosity is taken from the column ``viscosity`` where there is one; else
    the column is added. Rows whose viscosity the model has not learned from are quarantined.

    Attributes:
        model: a folder that `psi_vae` or `psi_stylegan` has published, with ``config.json`` and ``model.safetensors``.
        viscosity: of all rows, where they say none; 0 takes the middle of those that the model has learned from.
        device: ``auto`` takes a GPU where there is one; its rounding differs from a CPU's.
    """

    model: Uri
    viscosity: float = 0.0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    ASIDE = ("model", "device")
    NEEDS = ("torch", "safetensors")

    def __post_init__(self) -> None:
        if self.viscosity < 0:
            raise ValueError(f"viscosity is {self.viscosity}; 0 or more was needed")

    def schema(self, given: pa.Schema) -> pa.Schema:
        """``velocity``, and ``viscosity`` where it is not there; by ``config.json``, without torch.

        Raises:
            SchemaError: there are no seeds, or viscosities are no float64.
            WeightsError: the model is not there.
        """
        field_of(given, "seed", "generate", pa.int64())
        if "viscosity" in given.names:
            field_of(given, "viscosity", "generate", pa.float64())
            return adding(given, {"velocity": self._kind()})
        return adding(given, {"viscosity": pa.float64(), "velocity": self._kind()})

    def _kind(self) -> pa.DataType:
        if is_promised(self.model):
            return schema_of(self.model).field("velocity").type
        size = generator.config_of(self.model).size
        return tensor_type("float32", 2, size, size)

    def identity(self) -> Mapping[str, str]:
        """The hashes of config and weights."""
        return generator.hashes_of(self.model)

    def weights_bytes(self) -> int:
        """Size of the weights in memory; unknown, so 0, before they are trained."""
        return 0 if is_promised(self.model) else generator.weights_bytes(self.model)

    def licences(self) -> Sequence[Licence]:
        """The licence of the weights, as their card says."""
        return () if is_promised(self.model) else (generator.licence_of(self.model),)

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Load the model."""
        with generator.opened(self.model, self.device) as live:
            yield lambda batch: self._generate(batch, live)

    def _generate(self, batch: Batch, live: Generator) -> Batch:
        given = self._with_viscosity(batch, live.config)
        viscosity = to_numpy(given["viscosity"]).astype(np.float64)
        reasons = [live.config.reason(value) for value in viscosity.tolist()]
        good = np.array([not reason for reason in reasons])
        kept, _ = pick(given, good)
        seeds = [int(seed) for seed in to_numpy(kept["seed"])]
        made = live.fields(seeds, viscosity[good]) if seeds else self._none(live.config)
        found = with_columns(kept, {"velocity": tensor_column(made)})
        if good.all():
            return found
        raise RowErrors(found, batch.filter(pa.array(~good)), [reason for reason in reasons if reason])

    def _with_viscosity(self, batch: Batch, config: Config) -> Batch:
        if "viscosity" in batch.column_names:
            return batch
        return with_columns(batch, {"viscosity": pa.array(np.full(batch.num_rows, self.viscosity or config.middle))})

    def _none(self, config: Config) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.empty((0, 2, config.size, config.size), np.float32)
