"""A mass spectrometry laboratory's parts of Penstock: source `Mgf`, stage `Binned`, sink `Npz`, cluster `Within`."""
# ruff: noqa: D102 (the protocols in penstock.core.nouns say what the methods do)

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pyarrow as pa

from penstock.clusters.local import Local
from penstock.core.batch import adding, column_of, field_of, tensor_column, tensor_type, with_columns
from penstock.core.dataset import Format, Manifest, commit, draft, publish_part
from penstock.core.nouns import Batch, Job, Part, Records, Status, Transform, Unit
from penstock.core.plugins import ClusterField
from penstock.core.storage import Uri
from penstock.sinks.columns import arrays, refuse_type
from penstock.sources import records

_PEAKS = pa.list_(pa.float64())
_SPECTRA = pa.schema({"title": "str", "precursor_mz": "f8", "charge": "i4", "mz": _PEAKS, "intensity": _PEAKS})


@dataclass(frozen=True)
class Mgf:
    """Spectra of ``.mgf`` files (https://www.matrixscience.com/help/data_file_help.html), m/z in Th.

    ``charge`` is 0 where it is unknown. A record that is no spectrum is quarantined, with its text as the title.
    """

    uri: Uri
    unit_bytes: int = 8 << 20
    ASIDE = ("unit_bytes",)

    def schema(self) -> pa.Schema:
        return _SPECTRA

    def units(self) -> Iterator[Unit]:
        return records.cut(self.uri, (".mgf",), self.unit_bytes)

    def read(self, unit: Unit) -> Batch:
        return records.read(unit, records.Form(_SPECTRA, records.Border(b"\nBEGIN IONS"), _parse))


def _parse(at: int, block: bytes) -> records.Sorted:
    texts = re.split(r"^BEGIN IONS", records.shown(records.plain(at, block)), flags=re.MULTILINE)[1:]
    return records.one_by_one(_SPECTRA, texts, _spectrum, told="title")


def _spectrum(text: str) -> dict[str, object]:
    body, end, _ = text.partition("\nEND IONS")
    lines = [line for line in body.splitlines() if line.strip() and line[0] not in "#;!/"]
    given = {"TITLE": "", "CHARGE": "", "PEPMASS": "", **dict(line.split("=", 1) for line in lines if "=" in line)}
    peaks = [line.split()[:2] for line in lines if "=" not in line]
    if not end or not given["PEPMASS"].strip() or any(len(peak) < 2 for peak in peaks):
        raise ValueError(f"{'PEPMASS= or the intensity of a peak' if end else 'END IONS'} is missing")
    charge = re.fullmatch(r"(\d+)([+-]?)", given["CHARGE"].strip())
    plain = given["TITLE"], float(given["PEPMASS"].split()[0]), int(charge[2] + charge[1]) if charge else 0
    return dict(zip(_SPECTRA.names, (*plain, *np.array(peaks, float).reshape(-1, 2).T), strict=True))


@dataclass(frozen=True)
class Binned:
    """Adds ``spectrum``, float32 ``"row bin"``: roots of the intensities in bins of m/z, as a vector of length 1."""

    low_mz: float = 100.0
    bin_mz: float = 1.0005  # as far as the peaks of peptides lie apart
    bins: int = 1400

    def schema(self, given: pa.Schema) -> pa.Schema:
        for name in ("mz", "intensity"):
            field_of(given, name, "binned", _PEAKS)
        return adding(given, {"spectrum": tensor_type(np.float32, self.bins)})

    @contextmanager
    def open(self) -> Iterator[Transform]:
        yield lambda batch: with_columns(batch, {"spectrum": tensor_column(self._vectors(batch))})

    def _vectors(self, batch: Batch) -> np.ndarray:
        vectors = np.zeros((batch.num_rows, self.bins), np.float32)
        ends = self.low_mz, self.low_mz + self.bins * self.bin_mz
        for row, mz, height in zip(vectors, batch["mz"], batch["intensity"], strict=True):
            row[:] = np.sqrt(np.histogram(mz.values, self.bins, ends, weights=height.values)[0])
            if not row.sum() > 0:
                raise ValueError(f"no peak lies between {ends[0]:g} and {ends[1]:g} Th; move low_mz or take more bins")
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@dataclass(frozen=True)
class Npz:
    """NumPy's own files, an array ``"row ..."`` for each column of numbers, tensors or text: ``np.load(PART)["x"]``."""

    uri: Uri
    file_bytes: int = 256 << 20
    ASIDE = ("file_bytes",)

    def schema(self, given: pa.Schema) -> pa.Schema:
        for column in given:
            refuse_type(column, "npz")
        return given

    def write(self, unit: Unit, batch: Batch) -> Part:
        return publish_part(self.uri, ".npz", lambda path: _save(path, batch), batch.num_rows)

    def commit(self, records: Records, provenance: Mapping[str, object]) -> Manifest:
        plan = draft(self.uri, "npz", provenance)
        form = Format.whole(".npz", lambda path: self.read_part(path, plan.schema), _save)
        return commit(plan, form, records, self.file_bytes)

    @staticmethod
    def read_part(path: Path, schema: pa.Schema) -> pa.Table:
        with np.load(path) as file:
            return pa.table([column_of(file[each.name], each.type) for each in schema], schema)


def _save(path: Path, batch: Batch) -> None:
    with ZipFile(path, "w") as archive:  # np.savez takes no array called "file"
        for name, array in arrays(batch, "npz").items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


@dataclass(frozen=True)
class Within:
    """Any cluster, which starts each rank by *command*: ``nice -n 19``, ``apptainer exec image.sif``, ..."""

    command: tuple[str, ...]
    cluster: ClusterField = field(default_factory=Local)
    tasks = property(lambda self: self.cluster.tasks)
    python = property(lambda self: self.cluster.python)
    folder = property(lambda self: self.cluster.folder)
    retries = property(lambda self: self.cluster.retries)

    def submit(self, job: Job) -> str:
        return self.cluster.submit(replace(job, command=(*self.command, *job.command)))

    def poll(self, ids: Sequence[str]) -> Mapping[str, Status]:
        return self.cluster.poll(ids)

    def cancel(self, native_id: str) -> None:
        self.cluster.cancel(native_id)

    def again(self, native_id: str, status: Status) -> None:
        self.cluster.again(native_id, status)
