"""Jobs on a cluster: how to wait for one, where it works, and a stage that runs a program of the user's."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.clusters.local import Local
from penstock.core.batch import tensor_column
from penstock.core.dataset import sha256_of
from penstock.core.nouns import Batch, Cluster, Job, JobState, Transform
from penstock.core.plugins import ClusterField
from penstock.core.storage import Uri
from penstock.errors import JobError, SchemaError, UnitError
from penstock.solvers.reference import REFERENCE, Reference, local_folder, require_reference

__all__ = ["Program", "column_type", "job_key", "read_result", "run_job", "work_folder"]

_TAIL_LINES = 40  # two ranks that abort print twenty lines of their own


def run_job(cluster: Cluster, job: Job, patience_seconds: float = 600.0) -> None:
    """Submit *job* (or find it, when it was submitted before) and wait until it has ended well.

    The folder of a job that failed is put aside as ``<folder>.failed``, so that the next call runs it anew.
    For *patience_seconds* the cluster may be unable to say how the job stands.

    Raises:
        JobError: it failed, was cancelled, or nothing was heard of it.
    """
    native_id = cluster.submit(job)
    state = _final_state(cluster, native_id, patience_seconds)
    if state is not JobState.DONE:
        raise _failed(job, native_id, state)


def _final_state(cluster: Cluster, native_id: str, patience_seconds: float) -> JobState:
    pause, heard = 0.05, time.monotonic()
    while not (state := cluster.poll([native_id])[native_id]).final:
        if state is not JobState.UNKNOWN:
            heard = time.monotonic()
        elif time.monotonic() - heard > patience_seconds:
            raise JobError(
                f"nothing was heard of job {native_id} for {patience_seconds:g} s; it may still be running. "
                "See that the cluster answers and run again: the job is found again, not started anew"
            )
        time.sleep(pause)
        pause = min(pause * 1.3, 5.0)
    return state


def _failed(job: Job, native_id: str, state: JobState) -> JobError:
    folder = Path(job.folder)
    text = (
        f"job {native_id} {_verb(state)}: {_exit_text(folder)}\n  command: {' '.join(job.command)}"
        f"\n  tasks: {job.tasks}\n  its files are kept in {folder}.failed; the end of its stderr:\n{_tail(folder)}"
    )
    _put_aside(folder)
    return JobError(text)


def _put_aside(folder: Path) -> None:
    shutil.rmtree(f"{folder}.failed", ignore_errors=True)
    folder.rename(f"{folder}.failed")


def _verb(state: JobState) -> str:
    return "was cancelled" if state is JobState.CANCELLED else "failed"


def _exit_text(folder: Path) -> str:
    try:
        ended = json.loads((folder / "exit").read_text())
    except (FileNotFoundError, ValueError):
        return "it vanished without an exit status (killed, or the machine went down)"
    why = f", {ended['why']}" if ended.get("why") else ""
    return f"exit status {ended['code']}{why}"


def _tail(folder: Path) -> str:
    try:
        lines = (folder / "stderr").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "    (there is none)"
    return "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:]) or "    (it is empty)"


def job_key(*what: Any) -> str:
    """The identity (hex) of a job over plain data: the same work has the same key, whoever submits it."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@contextmanager
def work_folder(root: str, key: str) -> Iterator[Path]:
    """The folder of the job *key* below *root*, or, where that is empty, below this machine's temporary folder.

    Removed when all went well. Put aside when the result was bad (`UnitError`), so that the next
    attempt computes it anew; otherwise kept, so that the next attempt finds the job again.
    """
    folder = (Path(root) if root else _own_folder()) / key[:32]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except UnitError:
        _put_aside(folder)
        raise
    shutil.rmtree(folder)


def _own_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"penstock-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise JobError(f"{folder} belongs to another user; set 'folder' of the step, or TMPDIR, to a place of your own")
    return folder / "jobs"


@dataclass(frozen=True)
class Program:
    """Runs a program on a dataset, under MPI when it has more than one task.

    The program is called in a folder of its own with one more argument, the path of a JSON file::

        {"dataset": uri, "version": ..., "rows": ..., "sha256": ..., "result": path}

    It writes the result, one row for each row of the dataset and in their order, to ``result``: a
    Parquet file, or ``.npz`` with an array for each column.

    Attributes:
        command: program and arguments; programs on PATH, or absolute paths.
        columns: the result's columns, ``{ score = "float32", place = "float32[3]" }``.
        form: of the result's file.
        tasks: MPI ranks.
        cpus_per_task: cores for each.
        cluster: where it runs.
        folder: below which it works; all machines of the cluster must see it. Empty takes the temporary folder.
        time_seconds: it is ended after this long; 0 sets no limit.
    """

    command: tuple[str, ...]
    columns: Mapping[str, str]
    form: Literal["parquet", "npz"] = "parquet"
    tasks: int = 1
    cpus_per_task: int = 1
    cluster: ClusterField = field(default_factory=Local)
    folder: Uri = ""
    time_seconds: int = 0

    ASIDE = ("tasks", "cpus_per_task", "cluster", "folder", "time_seconds")

    def __post_init__(self) -> None:
        if not self.command:
            raise ValueError('command is empty; write command = ["program", "argument"]')
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
        key = job_key(reference.plain(), self.command, dict(self.identity()), self.tasks, self.form)
        with work_folder(self.folder, key) as folder:
            result, config = folder / f"result.{self.form}", folder / "job.json"
            told = {
                **reference.plain(),
                "dataset": str(local_folder(reference.dataset) or reference.dataset),
                "result": str(result),
            }
            config.write_text(json.dumps(told, indent=1))
            command = (*self.command, str(config))
            run_job(
                self.cluster,
                Job(key, command, str(folder), self.tasks, self.cpus_per_task, time_seconds=self.time_seconds),
            )
            return self._result(result, reference.rows)

    def _result(self, path: Path, rows: int) -> Batch:
        schema = self.schema(REFERENCE)
        try:
            found = read_result(path)
            columns = [
                pa.array(np.arange(rows)),
                *(_typed(found[name], schema.field(name).type) for name in self.columns),
            ]
            return pa.table(columns, schema=schema)
        except (OSError, KeyError, ValueError, SchemaError, pa.ArrowException) as error:
            raise UnitError(
                f"the program ended well, but its result {path.name} is not {rows} rows of "
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
