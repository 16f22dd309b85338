"""The conformance suite for sinks: deterministic parts, one winner, and a dataset that survives every crash.

A package with a sink of its own has one test class for it::

    from penstock.testing import SinkTests


    class TestMine(SinkTests):
        @pytest.fixture
        def sink(self, root):
            return Mine(root, file_bytes=4000)
"""

from __future__ import annotations

import dataclasses
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

from penstock.core import plugins
from penstock.core.batch import digest, tensor_column
from penstock.core.dataset import Manifest, existing, sweep, versions
from penstock.core.nouns import Batch, Pipeline, Record, Sink, Step, Unit
from penstock.core.reading import read_rows, read_table
from penstock.core.run import Outcome, run
from penstock.core.storage import S3, Posix, join, local_copy, store_of
from penstock.core.verify import verify
from penstock.core.work import Assignment, carry, opened
from penstock.testing.parts import Numbers, Squares

__all__ = ["Crash", "SinkTests", "crashing"]

_VERBS = ("list", "below", "entry", "read", "open", "create", "replace", "upload", "scratch", "remove")


class Crash(BaseException):
    """The end of a process, as a test wants it; nothing may catch it."""


class _Mortal:
    """Lets the verbs of the stores work until the fatal one; from then on none does."""

    def __init__(self, fatal: int) -> None:
        self.count, self._fatal, self._lock = 0, fatal, threading.Lock()

    def doing(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        def mortal(*args: Any, **more: Any) -> Any:
            with self._lock:
                self.count += 1
                number = self.count
            if number >= self._fatal:
                raise Crash(f"before operation {number}")
            return verb(*args, **more)

        return mortal


@contextmanager
def crashing(fatal: int) -> Iterator[_Mortal]:
    """Inside, everything ends with `Crash` before storage operation number *fatal* (from 1)."""
    mortal = _Mortal(fatal)
    with ExitStack() as stack:
        for store, verb in product((Posix, S3), _VERBS):
            stack.enter_context(mock.patch.object(store, verb, mortal.doing(getattr(store, verb))))
        yield mortal


class SinkTests:
    """Subclass it and give the fixture `sink`, which writes to the fixture `root`.

    Give the sink a small `file_bytes`, so that its packing is tested. A sink with a file format of its own needs
    `penstock.core.nouns.OwnFormat` and an entry point of the format's name, by which the tests read it back.
    """

    @pytest.fixture
    def root(self, tmp_path: Path) -> str:
        """Where the sink writes; override it for another store."""
        return str(tmp_path / "data set")

    @pytest.fixture
    def sink(self, root: str) -> Sink:
        """The sink under test."""
        raise NotImplementedError("give the sink under test")

    @pytest.fixture
    def batch(self) -> Batch:
        """Twenty rows with columns of all kinds that the sink takes; override it where that is other."""
        rng = np.random.default_rng(7)
        return pa.table(
            {
                "id": pa.array(np.arange(20) - 5, pa.int64()),
                "small": pa.array(rng.integers(0, 255, 20), pa.uint8()),
                "score": pa.array([0.0, -0.0, np.inf, -np.inf, np.nan, *rng.normal(size=15)], pa.float64()),
                "half": pa.array(rng.normal(size=20).astype(np.float16)),
                "good": pa.array(rng.integers(0, 2, 20).astype(bool)),
                "text": pa.array(["", "ä€🧬", 'a "b"\n', *(f"row {i}" for i in range(17))]),
                "vector": tensor_column(rng.normal(size=(20, 5)).astype(np.float32)),
                "image": tensor_column(rng.normal(size=(20, 2, 3)).astype(np.float16)),
            }
        )

    # --- data ------------------------------------------------------------------------------------------

    def test_is_data(self, sink: Sink) -> None:
        """Frozen, hashable, equal after pickling, and made again from its plain fields."""
        assert isinstance(sink, Sink)
        assert pickle.loads(pickle.dumps(sink)) == sink  # noqa: S301  (our own bytes)
        assert hash(sink) == hash(dataclasses.replace(sink))  # type: ignore[type-var]
        assert plugins.adapter(type(sink)).validate_python(plugins.describe(sink)) == sink

    # --- parts -----------------------------------------------------------------------------------------

    def test_writing_twice_gives_one_part(self, sink: Sink, batch: Batch) -> None:
        """The same rows give the same bytes under the same name, however they are cut into chunks."""
        whole = sink.write(_unit(0), batch)
        again = sink.write(_unit(0), batch)
        cut = sink.write(_unit(0), pa.concat_tables([batch.slice(0, 3), batch.slice(3, 9), batch.slice(12)]))
        within = sink.write(_unit(0), pa.concat_tables([batch, batch]).slice(20, 20))
        assert whole == again == cut == within
        assert whole.rows == 20
        with local_copy(join(sink.uri, whole.path)) as path:
            data = path.read_bytes()
        import hashlib

        assert (hashlib.sha256(data).hexdigest(), len(data)) == (whole.sha256, whole.size_bytes)

    def test_writing_leaves_the_batch_alone(self, sink: Sink, batch: Batch) -> None:
        """A sink has no effect on its argument."""
        before = digest(batch)
        sink.write(_unit(0), batch)
        assert digest(batch) == before

    def test_other_rows_give_another_part(self, sink: Sink, batch: Batch) -> None:
        """One value, or the order, makes the difference."""
        one, other = sink.write(_unit(0), batch), sink.write(_unit(0), batch.take(list(range(19, -1, -1))))
        assert one.path != other.path

    def test_many_workers_write_the_same_unit_at_once(self, sink: Sink, batch: Batch) -> None:
        """Speculative attempts of a runner do not disturb each other."""
        with ThreadPoolExecutor(8) as pool:
            parts = list(pool.map(lambda _: sink.write(_unit(0), batch), range(16)))
        assert len(set(parts)) == 1
        assert len(_files(sink.uri, "parts")) == 1

    # --- datasets --------------------------------------------------------------------------------------

    def test_what_was_written_is_read_back_in_the_order_of_commit(self, sink: Sink, batch: Batch) -> None:
        """Rows come in the order of the records, whatever the order of writing, in any slice."""
        pieces = [batch.slice(0, 7), batch.slice(7, 1), batch.slice(8, 0), batch.slice(8)]
        manifest = _committed(sink, pieces, order=[3, 1, 0, 2])
        wanted = _as_held(sink, pa.concat_tables(pieces))
        assert (manifest.version, manifest.rows, manifest.schema) == (1, 20, wanted.schema)
        assert digest(read_table(sink.uri)) == digest(wanted)
        for start, stop in [(0, 1), (6, 9), (7, 8), (8, 20), (19, 20), (5, 5)]:
            assert digest(read_rows(manifest, start, stop)) == digest(wanted.slice(start, stop - start))
        verify(sink.uri)

    def test_a_unit_without_rows_and_a_dataset_without_rows(self, sink: Sink, batch: Batch) -> None:
        """Both are fine: nothing is nothing, with its columns."""
        manifest = _committed(sink, [batch.slice(0, 0), batch.slice(0, 0)])
        assert (manifest.rows, read_table(sink.uri).num_rows) == (0, 0)
        assert read_table(sink.uri).schema == manifest.schema
        verify(sink.uri)

    def test_a_dataset_without_units(self, sink: Sink, batch: Batch) -> None:
        """An empty source gives an empty dataset, not an error."""
        manifest = sink.commit(list, _provenance(sink, batch.schema))
        assert read_table(sink.uri).schema == manifest.schema
        verify(sink.uri)

    def test_many_small_units_are_packed(self, sink: Sink, batch: Batch) -> None:
        """Hundreds of small files read many times slower than a few; rows and their order stay."""
        pieces = [batch.slice(i % 20, i % 3) for i in range(60)]
        manifest = _committed(sink, pieces)
        sweep(sink.uri)
        assert digest(read_table(sink.uri)) == digest(_as_held(sink, pa.concat_tables(pieces)))
        named = set(manifest.parts()["path"].to_pylist())
        assert len(named) < 40
        assert _files(sink.uri, "parts") == named, "the small files are gone"
        verify(sink.uri)

    def test_committing_again_changes_nothing(self, sink: Sink, batch: Batch) -> None:
        """The same records give the manifest that stands."""
        first = _committed(sink, [batch.slice(0, 9), batch.slice(9)])
        assert _committed(sink, [batch.slice(0, 9), batch.slice(9)]) == first
        assert versions(sink.uri) == [1]

    def test_more_units_make_the_next_version_and_who_reads_the_last_one_may_go_on(
        self, sink: Sink, batch: Batch
    ) -> None:
        """Also after the packed files were swept; packed files are used again as they are."""
        first = _committed(sink, [batch.slice(i, 1) for i in range(10)])
        sweep(sink.uri)
        second = _committed(sink, [batch.slice(i, 1) for i in range(20)])
        sweep(sink.uri)
        assert (first.version, second.version, second.rows) == (1, 2, 20)
        assert _packed(first) <= _packed(second)
        held = _as_held(sink, batch)
        assert digest(read_rows(first, 0, 10)) == digest(held.slice(0, 10))
        assert digest(read_table(sink.uri)) == digest(held)
        verify(sink.uri)

    def test_fewer_units_in_another_order_with_empty_ones_before_them(self, sink: Sink, batch: Batch) -> None:
        """Packed files serve any later version, by line and not as a whole."""
        pieces = [batch.slice(0, 0), *(batch.slice(i, 2) for i in range(0, 20, 2))]
        _committed(sink, pieces)
        for order in ([0, 5, 4, 1, 1, 10], [3], [0], [0, 3, 9, 8], list(range(11))):
            _committed(sink, [pieces[at] for at in order])
            sweep(sink.uri)
            wanted = pa.concat_tables([pieces[at] for at in order])
            assert digest(read_table(sink.uri)) == digest(_as_held(sink, wanted))
            verify(sink.uri)

    # --- rivals ----------------------------------------------------------------------------------------

    def test_sixteen_committers_of_the_same_records_make_one_version(self, sink: Sink, batch: Batch) -> None:
        """All get the manifest that stands, though each sweeps when it is done."""
        pieces = [batch.slice(i, 2) for i in range(0, 20, 2)]

        def commit(_: int) -> Manifest:
            manifest = _committed(sink, pieces)
            sweep(sink.uri)
            return manifest

        with ThreadPoolExecutor(16) as pool:
            manifests = list(pool.map(commit, range(16)))
        assert versions(sink.uri) == [1]
        assert all(manifest == existing(sink.uri) for manifest in manifests)
        assert digest(read_table(sink.uri)) == digest(_as_held(sink, batch))
        verify(sink.uri)

    def test_committers_of_other_records_each_get_a_version(self, sink: Sink, batch: Batch) -> None:
        """Nobody's rows are lost or mixed, and ``manifest.json`` ends as a copy of the newest."""

        def commit(at: int) -> tuple[int, Manifest]:
            return at, _committed(sink, [batch.slice(at, 2), batch.slice(0, at)], seed=str(at))

        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(commit, range(8)))
        assert sorted(manifest.version for _, manifest in made) == list(range(1, 9)) == versions(sink.uri)
        for at, manifest in made:
            wanted = _as_held(sink, pa.concat_tables([batch.slice(at, 2), batch.slice(0, at)]))
            assert digest(read_rows(manifest, 0, manifest.rows)) == digest(wanted)
        assert store_of(sink.uri).read(join(sink.uri, "manifest.json")) == existing(sink.uri).dump()
        verify(sink.uri)

    # --- crashes ---------------------------------------------------------------------------------------

    def test_a_crash_at_any_moment_is_mended_by_running_again(self, sink: Sink, root: str) -> None:
        """Between any two operations on the store: the dataset is as if nothing had happened."""
        wanted = _run(_moved(sink, f"{root}-whole"))
        with crashing(1 << 30) as counted:
            _run(_moved(sink, f"{root}-counted"))
        assert counted.count > 20
        for fatal in range(1, counted.count + 1):
            _crash_and_mend(_moved(sink, f"{root}-{fatal}"), fatal, wanted)


def _crash_and_mend(sink: Sink, fatal: int, wanted: Manifest) -> None:
    with crashing(fatal), pytest.raises(Crash):
        _run(sink)
    _run(sink)
    found = verify(sink.uri)
    assert (found.version, found.sha256) == (1, wanted.sha256), f"crash before operation {fatal}"
    assert read_table(sink.uri).equals(read_table(wanted.uri))
    assert _files(sink.uri, "parts") == set(found.parts()["path"].to_pylist()), "no part too many"
    assert _files(sink.uri, "ledger") == set(), "the manifest has all records"
    assert _files(sink.uri, "quarantine") == {name for names in found.parts()["bad"].to_pylist() for name in names}
    assert store_of(sink.uri).read(join(sink.uri, "manifest.json")) == found.dump()


def _moved(sink: Sink, uri: str) -> Sink:
    return dataclasses.replace(sink, uri=uri)  # type: ignore[type-var]


def _run(sink: Sink) -> Manifest:
    """Three units, one of them without rows and one with a bad row, through one step into *sink*."""
    pipeline = Pipeline("crash", _Spoilt(count=3, rows=4), sink, (Step(Squares(bad=(9,))),))
    return run(pipeline, "suite", _carry).manifest


@dataclasses.dataclass(frozen=True)
class _Spoilt(Numbers):
    """Numbers whose second unit has no rows."""

    def read(self, unit: Unit) -> Batch:
        batch = super().read(unit)
        return batch.slice(0, 0) if unit.start == self.rows else batch


def _carry(assignment: Assignment, units: Iterable[Unit]) -> Iterator[Outcome]:
    with opened(assignment) as transforms:
        for unit in units:
            yield carry(assignment, unit, transforms)


def _unit(at: int) -> Unit:
    return Unit.of("suite", "1", at, at + 1)


def _provenance(sink: Sink, schema: pa.Schema, seed: str = "0") -> dict[str, str]:
    return {"schema": sink.schema(schema).serialize().to_pybytes().hex(), "fingerprint": seed * 64}


def _committed(sink: Sink, pieces: Sequence[Batch], order: Sequence[int] = (), seed: str = "0") -> Manifest:
    """Write the pieces, in *order*, and commit them, in theirs."""
    parts = {at: sink.write(_unit(at), pieces[at]) for at in (order or range(len(pieces)))}
    records = [(_unit(at), Record(_unit(at).key, parts[at])) for at in range(len(pieces))]
    return sink.commit(lambda: iter(records), _provenance(sink, pieces[0].schema, seed))


def _packed(manifest: Manifest) -> set[str]:
    """The files that packing made."""
    lines = manifest.parts().select(["path", "part_path"]).to_pylist()
    return {line["path"] for line in lines if line["path"] != line["part_path"]}


def _as_held(sink: Sink, batch: Batch) -> Batch:
    """The columns that the sink keeps."""
    return batch.select(sink.schema(batch.schema).names)


def _files(root: str, folder: str) -> set[str]:
    """Relative names below *root* / *folder*."""
    return {entry.uri.removeprefix(f"{root}/") for entry in store_of(root).below(join(root, folder))}
