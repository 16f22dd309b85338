"""A stage that runs a program of the user's on a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.clusters.local import Local
from penstock.core.batch import tensor_column
from penstock.core.dataset import sha256_of
from penstock.core.nouns import Batch, Transform
from penstock.core.plugins import ClusterField
from penstock.errors import SchemaError, UnitError
from penstock.solvers.reference import REFERENCE, Reference, require_reference
from penstock.solvers.work import Work, computed

__all__ = ["Program", "column_type", "read_result"]


@dataclass(frozen=True)
class Program:
    """Runs a program on a dataset; how many MPI ranks it has is said by the cluster.

    The program is called in a folder of its own with one more argument, the path of a JSON file::

        {"dataset": uri, "version": ..., "rows": ..., "sha256": ..., "result": path, "tasks": MPI ranks}

    It writes the result, one row for each row of the dataset and in their order, to ``result``: a
    Parquet file, or ``.npz`` with an array for each column.

    With several items it is run once for each, as one job array. ``PENSTOCK_ITEM`` (from 0) says which: of
    ``rows`` rows item *i* of *n* has ``[rows i // n, rows (i + 1) // n)``, and writes these to ``result``, in which
    it puts the number in place of ``{item}``.

    Attributes:
        command: program and arguments; programs on PATH of the cluster, or absolute paths there.
        columns: the result's columns, ``{ score = "float32", place = "float32[3]" }``.
        form: of the result's file.
        items: how many slabs of rows are computed apart from each other.
        copy_dataset: copy the dataset into the program's folder first, for programs that read no S3.
        cluster: where it runs, and how much of it.
    """

    command: tuple[str, ...]
    columns: Mapping[str, str]
    form: Literal["parquet", "npz"] = "parquet"
    items: int = 1
    copy_dataset: bool = False
    cluster: ClusterField = field(default_factory=Local)

    ASIDE = ("copy_dataset", "cluster")

    def __post_init__(self) -> None:
        if not self.command:
            raise ValueError('command is empty; write command = ["program", "argument"]')
        if self.items < 1:
            raise ValueError(f"items must be 1 or more, not {self.items}")
        if not self.columns or "row" in self.columns:
            raise ValueError('columns must name what the program gives beside "row", as in { score = "float32" }')
        for kind in self.columns.values():
            column_type(kind)

    def identity(self) -> Mapping[str, str]:
        """Hashes of the files that the command names."""
        files = (Path(word) for word in self.command)
        return {str(path): sha256_of(path) for path in files if path.is_file()}

    def schema(self, given: pa.Schema) -> pa.Schema:
        """``row`` and the declared columns. Raises `SchemaError`."""
        require_reference(given, "job")
        return pa.schema([("row", pa.int64()), *((name, column_type(kind)) for name, kind in self.columns.items())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """A function that runs the job for the reference it is given."""
        yield lambda batch: self._solved(Reference.of(batch))

    def _solved(self, reference: Reference) -> Batch:
        reference.manifest()
        with computed(self._work(reference), self.cluster) as folder:
            if self.items == 1:
                return self._result(folder / f"result.{self.form}", 0, reference.rows)
            edges = [reference.rows * item // self.items for item in range(self.items + 1)]
            return pa.concat_tables(
                self._result(folder / f"result.{item}.{self.form}", *edges[item : item + 2])
                for item in range(self.items)
            )

    def _work(self, reference: Reference) -> Work:
        what = (reference.plain(), self.command, dict(self.identity()), self.cluster.tasks, self.form, self.items)
        told = reference.told()
        address = str(told["dataset"])
        result = f"result.{self.form}" if self.items == 1 else f"result.{{item}}.{self.form}"
        told |= {"result": result, "tasks": self.cluster.tasks}
        told |= {"dataset": "dataset"} if self.copy_dataset else {}
        inputs = ((address, "dataset"),) if self.copy_dataset else ()
        return Work(Path(self.command[0]).name, what, self.command, told, (result,), inputs, self.items)

    def _result(self, path: Path, start: int, stop: int) -> Batch:
        schema = self.schema(REFERENCE)
        try:
            found = read_result(path)
            columns = [
                pa.array(np.arange(start, stop)),
                *(_typed(found[name], schema.field(name).type) for name in self.columns),
            ]
            return pa.table(columns, schema=schema)
        except (OSError, KeyError, ValueError, SchemaError, pa.ArrowException) as error:
            raise UnitError(
                f"the program ended well, but its result {path.name} is not {stop - start} rows of "
                f"{', '.join(f'{name}: {kind}' for name, kind in self.columns.items())} ({error}); mend the program"
            ) from error


_TYPE = re.compile(r"(\w+)(?:\[(\d+(?:\s*,\s*\d+)*)\])?")


def column_type(text: str) -> pa.DataType:
    """The Arrow type that *text* names: ``float32``, ``string``, or ``float32[3, 4]`` for tensors.

    Raises:
        ValueError: it names none.
    """
    found = _TYPE.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is no type; write for example float32, string, or float32[3] for tensors")
    kind = pa.type_for_alias(found[1])
    return pa.fixed_shape_tensor(kind, [int(size) for size in found[2].split(",")]) if found[2] else kind


def read_result(path: Path) -> Mapping[str, pa.Array | pa.ChunkedArray]:
    """The columns of a result file: Parquet, or ``.npz`` with an array ``"row ..."`` for each."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: tensor_column(arrays[name]) for name in arrays.files}
    table = pq.read_table(path, partitioning=None)
    return dict(zip(table.column_names, table.columns, strict=True))


def _typed(column: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """*column* as *kind*; other programs write tensors as plain lists."""
    if column.type == kind or not isinstance(kind, pa.FixedShapeTensorType):
        return column.cast(kind)
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return pa.chunked_array(
        [pa.ExtensionArray.from_storage(kind, chunk.cast(kind.storage_type)) for chunk in chunks], kind
    )
