"""The dataset on disk or S3: parts, manifests, and the commit that makes them one.

::

    root/manifests/00000001.json    the dataset; the highest number counts
    root/manifests/<sha>.parquet    the parts table of a manifest
    root/manifest.json              a copy of the newest, for people and scripts
    root/parts/<sha>.<format>       content-named files; small ones are packed at commit
    root/ledger/ root/quarantine/ root/runs/

A manifest is published by exclusive creation of the next number, so among concurrent committers
one wins, and nobody needs a lock. Readers go by the manifest and never list ``parts/``.

Nothing that a manifest names is removed before the version after the next: `sweep` comes last, and takes
only files that the newest manifest's packing has replaced, so who still reads the version before is safe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock.core.nouns import Part, Record, Unit
from penstock.core.storage import clear_scratch, join, local_copy, publish, store_of
from penstock.errors import DatasetError, StorageError

__all__ = [
    "PARTS_SCHEMA",
    "Format",
    "Manifest",
    "adopt",
    "commit",
    "derive",
    "draft",
    "existing",
    "is_promised",
    "newest",
    "promised",
    "publish_part",
    "schema_of",
    "sha256_of",
    "sweep",
    "versions",
]

_AT_ONCE = 32

PARTS_SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("uri", pa.string()),
        ("etag", pa.string()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("rows", pa.int64()),
        ("first_row", pa.int64()),
        ("path", pa.string()),
        ("offset", pa.int64()),
        ("sha256", pa.string()),
        ("size_bytes", pa.int64()),
        ("part_path", pa.string()),
        ("part_sha256", pa.string()),
        ("part_bytes", pa.int64()),
        ("bad", pa.list_(pa.string())),
        ("bad_rows", pa.int64()),
    ]
)
"""One line for each unit. ``path`` holds its rows from row ``offset`` on; ``part_*`` is the file as it
was first published, which packing may have replaced; ``first_row`` is the place in the dataset."""


@dataclass(frozen=True)
class Manifest:
    """A published dataset.

    Attributes:
        uri: the root.
        version: its number; 1 is the first.
        format: name of the file format, ``parquet``, ``hdf5`` or ``zarr``.
        schema: the columns.
        rows: how many rows in all.
        bad_rows: how many rows were quarantined on the way.
        fingerprint: what made it; see `penstock.core.ledger.fingerprint`.
        parts_sha256: hash of the parts table's file, and its name.
        provenance: pipeline, versions, weights and sources, as plain data.
    """

    uri: str
    version: int
    format: str
    schema: pa.Schema
    rows: int
    bad_rows: int
    fingerprint: str
    parts_sha256: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """The identity of the content: equal parts in equal order give equal hashes."""
        return hashlib.sha256(f"{self.format} {self.parts_sha256}".encode()).hexdigest()

    def parts(self) -> pa.Table:
        """The parts table, `PARTS_SCHEMA`, one line a unit, in row order.

        Raises:
            DatasetError: the table is not the one that was committed.
        """
        name = join(self.uri, "manifests", f"{self.parts_sha256}.parquet")
        with local_copy(name) as path:
            if sha256_of(path) != self.parts_sha256:
                raise DatasetError(f"{name}: its hash is not its name; the file is damaged, restore it or run again")
            return pq.read_table(path, partitioning=None)

    def dump(self) -> bytes:
        """The manifest as JSON."""
        data = {
            "penstock": 1,
            "version": self.version,
            "format": self.format,
            "rows": self.rows,
            "bad_rows": self.bad_rows,
            "columns": {f.name: str(f.type) for f in self.schema},
            "schema": self.schema.serialize().to_pybytes().hex(),
            "fingerprint": self.fingerprint,
            "parts_sha256": self.parts_sha256,
            "provenance": self.provenance,
        }
        return json.dumps(data, indent=1, ensure_ascii=False, default=str).encode()

    @classmethod
    def load(cls, uri: str, data: bytes) -> Manifest:
        """The inverse of `dump`."""
        try:
            text = json.loads(data)
            form = text["penstock"]
            if form != 1:
                raise DatasetError(
                    f"{uri}: its manifest has form {form}, this Penstock reads form 1; install a later one"
                )
            keys = ("version", "format", "rows", "bad_rows", "fingerprint", "parts_sha256", "provenance")
            schema = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text["schema"])))
            return cls(uri=uri, schema=schema, **{key: text[key] for key in keys})
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise DatasetError(
                f"{uri}: its manifest cannot be understood ({error}); restore it or run again"
            ) from error


@dataclass(frozen=True)
class Format:
    """How a kind of file is written, as pure functions of local paths.

    Attributes:
        suffix: of the files.
        pack: puts the rows of several files, in order, into a new one.
        finish: makes derived files (an index) for a manifest; idempotent.
    """

    suffix: str
    pack: Callable[[Sequence[Path], Path], None]
    finish: Callable[[Manifest], None] = lambda manifest: None

    @classmethod
    def whole(cls, suffix: str, read: Callable[[Path], pa.Table], write: Callable[[Path, pa.Table], None]) -> Format:
        """One whose files are packed by *read* and *write*, all rows in memory at once."""
        return cls(suffix, lambda paths, target: write(target, pa.concat_tables(read(path) for path in paths)))


def sha256_of(path: Path) -> str:
    """The hash (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def draft(root: str, form: str, provenance: Mapping[str, Any], schema: pa.Schema | None = None) -> Manifest:
    """A manifest that still lacks its parts; schema and fingerprint are in the provenance."""
    columns = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(provenance["schema"]))) if schema is None else schema
    return Manifest(root.rstrip("/"), 0, form, columns, 0, 0, provenance["fingerprint"], "", provenance)


def publish_part(root: str, suffix: str, write: Callable[[Path], None], rows: int) -> Part:
    """Write a local scratch file by *write* and publish it under the name of its content."""
    with publish(root, suffix) as (path, upload):
        write(path)
        sha256, size = sha256_of(path), path.stat().st_size
        name = f"parts/{sha256[:32]}{suffix}"
        upload(name)
    return Part(name, rows, sha256, size)


def versions(root: str) -> list[int]:
    """The numbers of all manifests below *root*, rising."""
    names = [entry.uri.rsplit("/", 1)[-1] for entry in store_of(root).below(join(root, "manifests"))]
    return sorted(int(name[:8]) for name in names if name.endswith(".json") and name[:8].isdigit())


def newest(root: str) -> Manifest | None:
    """The dataset at *root*, or None when nothing was committed yet."""
    numbers = versions(root)
    while numbers:
        try:
            return _load(root, numbers[-1])
        except StorageError:  # a writer may have published a newer one meanwhile, and have cleared this away
            before, numbers = numbers, versions(root)
            if numbers == before:
                raise
    return None


def _load(root: str, version: int) -> Manifest:
    with store_of(root).open(_manifest_name(root, version)) as file:
        return Manifest.load(root.rstrip("/"), file.read())


def existing(root: str, version: int = 0) -> Manifest:
    """The dataset at *root*: the newest version of it, or the one that is numbered so.

    Raises:
        DatasetError: nothing was committed there, or not that version.
    """
    if version and version not in versions(root):
        raise DatasetError(f"{root}: there is no version {version}; there are: {versions(root)}")
    manifest = _load(root, version) if version else newest(root)
    if manifest is None:
        raise DatasetError(f"{root}: there is no manifest, so no finished dataset; run the pipeline that writes it")
    return manifest


_PROMISED: ContextVar[Mapping[str, pa.Schema]] = ContextVar("promised", default={})  # noqa: B039 (never changed)


@contextmanager
def promised(schemas: Mapping[str, pa.Schema]) -> Iterator[None]:
    """Inside, datasets at these addresses that nobody has committed yet count as having these columns.

    So a line of pipelines can be checked before the first of them has run.
    """
    token = _PROMISED.set(schemas)
    try:
        yield
    finally:
        _PROMISED.reset(token)


def is_promised(uri: str) -> bool:
    """Whether the dataset at *uri* is yet to be made by a pipeline that runs before."""
    return uri.rstrip("/") in _PROMISED.get() and newest(uri) is None


def schema_of(uri: str) -> pa.Schema:
    """The columns of the dataset at *uri*, committed or promised.

    Raises:
        DatasetError: it is neither.
    """
    return _PROMISED.get()[uri.rstrip("/")] if is_promised(uri) else existing(uri).schema


def _manifest_name(root: str, version: int) -> str:
    return join(root, "manifests", f"{version:08d}.json")


def commit(
    draft: Manifest,
    form: Format,
    records: Callable[[], Iterable[tuple[Unit, Record]]],
    file_bytes: int,
) -> Manifest:
    """Publish a manifest over the parts of *records*, in their order; one winner.

    Args:
        draft: uri, format, schema, fingerprint and provenance; the rest is filled in here.
        form: how files are packed and what is derived from them.
        records: gives the units and their ledger records, afresh at each call.
        file_bytes: parts smaller than this are packed into files of about this size.

    Returns:
        The manifest that stands: ours, or an equal one that somebody committed first.

    Raises:
        DatasetError: files that hold finished units are gone.
        StorageError: something could not be read or written.
    """
    while True:
        previous = newest(draft.uri)
        try:
            manifest = _attempt(draft, form, records, file_bytes, previous)
        except (OSError, DatasetError):
            # Somebody who committed since may have packed our parts away and swept them.
            if versions(draft.uri)[-1:] != ([previous.version] if previous else []):
                continue
            raise
        if manifest is not None:
            derive(manifest.uri, form.finish)
            return manifest


def _attempt(
    draft: Manifest,
    form: Format,
    records: Callable[[], Iterable[tuple[Unit, Record]]],
    file_bytes: int,
    previous: Manifest | None,
) -> Manifest | None:
    """The manifest after *previous*; itself when nothing is new; None when somebody else was faster."""
    table = _parts_table(records(), previous)
    if previous is not None and _same(previous, draft, table):
        return previous
    packed = _pack(draft.uri, form, table, file_bytes)
    _must_exist(draft.uri, packed)
    manifest = _publish_table(draft, packed, (previous.version if previous else 0) + 1)
    won = store_of(draft.uri).create(_manifest_name(draft.uri, manifest.version), manifest.dump())
    return manifest if won else None


def _must_exist(root: str, table: pa.Table) -> None:
    missing = set(table["path"].unique().to_pylist())
    for entry in store_of(root).below(join(root, "parts")):
        missing.discard("parts/" + entry.uri.rsplit("/", 1)[-1])
    if missing:
        raise DatasetError(
            f"{root}: {len(missing)} files that hold finished units are gone, the first: {min(missing)}; "
            "restore them, or remove the folders 'ledger' and 'manifests' there to make the dataset anew"
        )


def adopt(manifest: Manifest) -> Manifest:
    """Publish *manifest*, whose files somebody has brought to its root, unless an equal one stands there.

    Its version becomes a higher one where another dataset stands there already.
    """
    while True:
        before = newest(manifest.uri)
        if before is not None and (before.sha256, before.fingerprint) == (manifest.sha256, manifest.fingerprint):
            return before
        ours = replace(manifest, version=max(manifest.version, before.version + 1 if before else 1))
        if store_of(ours.uri).create(_manifest_name(ours.uri, ours.version), ours.dump()):
            return ours


def derive(root: str, finish: Callable[[Manifest], None]) -> None:
    """Bring index (by *finish*) and ``manifest.json`` up to the newest manifest.

    Who writes them looks again afterwards, so a slow committer cannot leave an older copy behind.
    """
    version = None
    while version != (numbers := versions(root))[-1]:
        manifest, version = existing(root), numbers[-1]
        finish(manifest)
        store_of(root).replace(join(root, "manifest.json"), manifest.dump())


def _parts_table(records: Iterable[tuple[Unit, Record]], previous: Manifest | None) -> pa.Table:
    """One line a unit; parts that an earlier commit packed are found where they are now."""
    batches: list[pa.RecordBatch] = []
    first = 0
    for chunk in _chunks(records, 4096):
        lines = [_line(unit, record) for unit, record in chunk]
        for line in lines:
            line["first_row"] = first
            first += line["rows"]
        batches.append(pa.RecordBatch.from_pylist(lines, PARTS_SCHEMA))
    table = pa.Table.from_batches(batches, PARTS_SCHEMA)
    return table if previous is None else _relocated(table, previous.parts())


def _line(unit: Unit, record: Record) -> dict[str, Any]:
    part = record.part
    return {
        **{name: getattr(unit, name) for name in ("uri", "etag", "start", "stop")},
        "unit": unit.key,
        "rows": part.rows,
        "path": part.path,
        "offset": 0,
        "sha256": part.sha256,
        "size_bytes": part.size_bytes,
        "part_path": part.path,
        "part_sha256": part.sha256,
        "part_bytes": part.size_bytes,
        "bad": list(record.bad),
        "bad_rows": record.bad_rows,
    }


_PLACE = ("path", "offset", "sha256", "size_bytes")


def _relocated(table: pa.Table, before: pa.Table) -> pa.Table:
    """*table* with the parts that were packed in *before* where they are there."""
    packed = before.filter(pc.not_equal(before["path"], before["part_path"]))
    at = pc.index_in(table["part_sha256"], packed["part_sha256"].combine_chunks())
    here = pc.is_null(at)
    return _placed(table, {n: pc.if_else(here, table[n], packed[n].take(at)) for n in _PLACE})


def _placed(table: pa.Table, columns: Mapping[str, pa.ChunkedArray | pa.Array]) -> pa.Table:
    for name, column in columns.items():
        at = PARTS_SCHEMA.get_field_index(name)
        table = table.set_column(at, PARTS_SCHEMA.field(at), column)
    return table


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


_CONTENT = ["unit", "rows", "part_sha256", "bad_rows"]


def _same(previous: Manifest, draft: Manifest, table: pa.Table) -> bool:
    if (previous.fingerprint, previous.format) != (draft.fingerprint, draft.format):
        return False
    return bool(previous.parts().select(_CONTENT).equals(table.select(_CONTENT)))


def _pack(root: str, form: Format, table: pa.Table, file_bytes: int) -> pa.Table:
    """Put neighbouring small files together; deterministic in the table."""
    alone = pc.equal(table["path"], table["part_path"]).to_numpy()
    pieces, at = [], 0
    for start, stop in _groups(alone.tolist(), table["size_bytes"].to_pylist(), file_bytes):
        pieces += [table.slice(at, start - at), _pack_group(root, form, table.slice(start, stop - start))]
        at = stop
    return pa.concat_tables([*pieces, table.slice(at)])


def _groups(alone: Sequence[bool], sizes: Sequence[int], file_bytes: int) -> Iterator[tuple[int, int]]:
    """Runs of two or more neighbours that stand alone in small files, about *file_bytes* together."""
    start = size = 0
    for at, (single, small) in enumerate(zip(alone, sizes, strict=True)):
        fits = single and small < file_bytes
        if not fits or size + small > file_bytes:
            if at - start > 1:
                yield start, at
            start, size = at + (not fits), 0
        size += small * fits
    if len(sizes) - start > 1:
        yield start, len(sizes)


def _pack_group(root: str, form: Format, group: pa.Table) -> pa.Table:
    """The lines of *group*, whose files are one now."""

    def write(target: Path) -> None:
        with ExitStack() as stack:
            paths = (join(root, path) for path in group["path"].to_pylist())
            form.pack([stack.enter_context(local_copy(path)) for path in paths], target)

    rows = group["rows"].to_numpy()
    part = publish_part(root, form.suffix, write, int(rows.sum()))
    same = {"path": part.path, "sha256": part.sha256, "size_bytes": part.size_bytes}
    repeated = {name: pa.repeat(value, len(rows)) for name, value in same.items()}
    return _placed(group, {**repeated, "offset": pa.array(np.cumsum(rows) - rows)})


def _publish_table(draft: Manifest, table: pa.Table, version: int) -> Manifest:
    with publish(draft.uri, ".parquet") as (path, upload):
        pq.write_table(table, path, compression="zstd")
        sha256 = sha256_of(path)
        upload(f"manifests/{sha256}.parquet")
    rows, bad = (pc.sum(table[name], min_count=0).as_py() for name in ("rows", "bad_rows"))
    return replace(draft, version=version, rows=rows, bad_rows=bad, parts_sha256=sha256)


def sweep(root: str) -> None:
    """Remove the files that packing replaced, unless the newest manifest or the one before names them; idempotent.

    Call it when the ledger no longer speaks of the units that the newest manifest holds.
    """
    tables = [_load(root, number).parts() for number in versions(root)[-2:]]
    if not tables:
        return
    named = pa.concat_tables(tables)["path"].unique()
    replaced = pc.unique(tables[-1]["part_path"])
    there = (f"parts/{entry.uri.rsplit('/', 1)[-1]}" for entry in store_of(root).below(join(root, "parts")))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for chunk in _chunks(there, 4096):
            names = pa.array(chunk, pa.string())
            useless = pc.and_not(pc.is_in(names, replaced), pc.is_in(names, named))
            list(pool.map(lambda name: store_of(root).remove(join(root, name)), names.filter(useless).to_pylist()))
    clear_scratch(root)
