"""Recording one step of a run: what went in and what came out, of a few units, so that it can be tried again alone.

::

    root/recorded/2-encode-1a2b3c4d/recording.json     the stage as data, its weights' hashes, versions, columns
    root/recorded/2-encode-1a2b3c4d/units/<key>.json   one a unit: its batches, the rows refused, seconds
    root/recorded/2-encode-1a2b3c4d/batches/<sha>.arrow  Arrow IPC files, named by their content

The workers write, each what it did; the dataset, its manifest and its fingerprint stay as they are without a
recording. The folder needs nothing beside it: copied to a colleague, `penstock.core.replay` takes it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, TypeAlias

import pyarrow as pa

from penstock.core import plugins
from penstock.core.dataset import sha256_of
from penstock.core.nouns import Batch, Identified, Pipeline, Unit
from penstock.core.storage import join, parent, publish, store_of
from penstock.errors import SpecError

__all__ = ["Recording", "begun", "folder", "step_of"]


Refused: TypeAlias = Sequence[tuple[Batch, tuple[str, ...]]]
"""Rows that a step refused, with a reason for each."""


@dataclass(frozen=True)
class Recording:
    """What workers have to know.

    Attributes:
        step: which one, from 0.
        folder: where it is kept.
        units: the keys of the units that are recorded.
    """

    step: int
    folder: str
    units: tuple[str, ...]

    def keep(self, step: int, unit: Unit, batches: tuple[Batch, Batch], refused: Refused, seconds: float) -> None:
        """Keep what went in and came out, when *step* and *unit* are recorded; idempotent. Raises `StorageError`."""
        if step != self.step or unit.key not in self.units:
            return
        given, made = (_kept(self.folder, batch) for batch in batches)
        reasons = [reason for _, each in refused for reason in each]
        told = {"unit": asdict(unit), "given": given, "made": made, "refused": reasons, "seconds": seconds}
        name = join(self.folder, "units", f"{unit.key[:32]}.json")
        store_of(name).create(name, json.dumps(told, indent=1).encode())


def _kept(root: str, batch: Batch) -> str:
    """The name of a published batch."""
    with publish(parent(parent(root)), ".arrow") as (path, upload):
        with pa.ipc.new_file(str(path), batch.schema) as file:
            file.write_table(batch.combine_chunks())
        name = f"batches/{sha256_of(path)[:32]}.arrow"
        upload(join(*root.rsplit("/", 2)[1:], name))
    return name


def step_of(pipeline: Pipeline, name: str) -> int:
    """The step called *name*: ``encode``, ``2-encode`` or ``2``; from 0.

    Raises:
        SpecError: no step is called so, or several are.
    """
    names = [f"{at}-{step.name}" for at, step in enumerate(pipeline.steps, 1)]
    found = [at for at, full in enumerate(names) if name in (full, *full.split("-", 1))]
    if len(found) != 1:
        there = ", ".join(names) or "none"
        what = f"{len(found)} steps are called '{name}'" if found else f"there is no step '{name}'"
        raise SpecError(f"{pipeline.name}: {what}, so it cannot be recorded; name one of: {there}")
    return found[0]


def folder(pipeline: Pipeline, fingerprint: str) -> str:
    """Where the step that *pipeline* records is kept."""
    at = step_of(pipeline, pipeline.record)
    return join(pipeline.sink.uri, "recorded", f"{at + 1}-{pipeline.steps[at].name}-{fingerprint[:8]}")


def begun(
    pipeline: Pipeline, fingerprint: str, schemas: Sequence[pa.Schema], units: Iterable[Unit]
) -> Recording | None:
    """Begin to record the first of *units*, those that are about to be done; None when nothing is recorded."""
    if not pipeline.record:
        return None
    root, step = folder(pipeline, fingerprint), step_of(pipeline, pipeline.record)
    chosen = tuple(unit.key for unit in islice(units, pipeline.record_units))
    if chosen:
        told = _about(pipeline.steps[step].stage, fingerprint, schemas[step], schemas[step + 1])
        store_of(root).replace(join(root, "recording.json"), json.dumps(told, indent=1, default=str).encode())
    return Recording(step, root, chosen)


def _about(stage: Any, fingerprint: str, given: pa.Schema, made: pa.Schema) -> dict[str, Any]:
    names = ("penstock", "pyarrow", "numpy", "torch", "transformers")
    return {
        "penstock": 1,
        "stage": {"use": plugins.called("stages", stage), **plugins.describe(stage)},
        "identity": dict(stage.identity()) if isinstance(stage, Identified) else {},
        "fingerprint": fingerprint,
        "versions": {"python": platform.python_version(), **{name: plugins.version_of(name) for name in names}},
        "columns": {field.name: str(field.type) for field in given},
        "given": given.serialize().to_pybytes().hex(),
        "made": made.serialize().to_pybytes().hex(),
    }
