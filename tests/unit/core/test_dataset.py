"""The commit: what it packs, who wins, and what it does when others interfere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core import dataset
from penstock.core.dataset import (
    Format,
    Manifest,
    commit,
    draft,
    existing,
    newest,
    publish_part,
    sha256_of,
    sweep,
    versions,
)
from penstock.core.nouns import Record, Unit
from penstock.core.storage import join
from penstock.core.verify import verify
from penstock.errors import DatasetError, StorageError

SCHEMA = pa.schema([("x", pa.int64())])


def pack(paths, target):
    """A format of lines of text: to pack is to concatenate."""
    target.write_bytes(b"".join(path.read_bytes() for path in paths))


LINES = Format(".txt", pack)


@pytest.fixture
def root(tmp_path) -> str:
    return str(tmp_path / "out")


def unit(at: int) -> Unit:
    return Unit.of("u", "1", at, at + 1)


def record(root: str, at: int, text: str | None = None) -> tuple[Unit, Record]:
    text = f"line {at}\n" if text is None else text
    part = publish_part(root, ".txt", lambda path: path.write_text(text), text.count("\n"))
    return unit(at), Record(unit(at).key, part)


def drafted(root: str, seed: str = "f") -> Manifest:
    return draft(root, "lines", {"fingerprint": seed}, SCHEMA)


def lines(manifest: Manifest) -> list[str]:
    """The dataset's rows, by its parts table."""
    found = []
    for line in manifest.parts().to_pylist():
        text = Path(join(manifest.uri, line["path"])).read_text().splitlines()
        found += text[line["offset"] : line["offset"] + line["rows"]]
    return found


# --- the manifest ----------------------------------------------------------------------------------------


def test_a_manifest_comes_back_from_its_bytes(root):
    provenance = {"fingerprint": "f", "größe": [1, 2.5, None, {"a": "数"}]}
    manifest = Manifest(root, 3, "lines", SCHEMA.with_metadata({b"a": b"b"}), 10, 1, "f", "0" * 64, provenance)
    assert Manifest.load(root, manifest.dump()) == manifest
    assert json.loads(manifest.dump())["columns"] == {"x": "int64"}


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"schema": "zz"}', b'{"schema": "00"}', b"\xff"])
def test_what_is_no_manifest_is_said_to_be_none(root, data):
    with pytest.raises(DatasetError, match=r"its manifest cannot be understood .*; restore it or run again"):
        Manifest.load(root, data)


def test_a_manifest_of_a_later_penstock_is_refused(root):
    data = Manifest(root, 1, "lines", SCHEMA, 0, 0, "f", "0" * 64).dump().replace(b'"penstock": 1', b'"penstock": 2')
    with pytest.raises(DatasetError, match="its manifest has form 2, this Penstock reads form 1; install a later one"):
        Manifest.load(root, data)


def test_the_identity_is_that_of_format_and_parts():
    manifest = Manifest("a", 1, "lines", SCHEMA, 10, 1, "f", "0" * 64)
    assert manifest.sha256 == replace(manifest, uri="b", version=2).sha256
    assert manifest.sha256 != replace(manifest, parts_sha256="1" * 64).sha256
    assert manifest.sha256 != replace(manifest, format="other").sha256


def test_nothing_committed(root):
    assert newest(root) is None
    assert versions(root) == []
    with pytest.raises(DatasetError, match="there is no manifest, so no finished dataset; run the pipeline that"):
        existing(root)


def test_a_version_that_is_cleared_away_between_listing_and_reading_is_passed_over(root, monkeypatch):
    """By a writer that publishes a newer one meanwhile; what stays unreadable is told."""
    commit(drafted(root), LINES, lambda: [record(root, 0)], 10)
    listed = iter([[1, 7]])
    monkeypatch.setattr(dataset, "versions", lambda root: next(listed, [1]))
    assert newest(root).version == 1
    monkeypatch.setattr(dataset, "versions", lambda root: [7])
    with pytest.raises(StorageError, match="no such file"):
        newest(root)


def test_a_damaged_parts_table_is_refused(root):
    manifest = commit(drafted(root), LINES, lambda: [record(root, 0)], 10)
    path = Path(root) / "manifests" / f"{manifest.parts_sha256}.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DatasetError, match=r"its hash is not its name; the file is damaged, restore it or run again"):
        manifest.parts()


# --- packing ---------------------------------------------------------------------------------------------


def test_small_neighbours_are_packed_in_order_and_the_sweep_takes_what_they_replace(root):
    records = [record(root, at) for at in range(10)]
    manifest = commit(drafted(root), LINES, lambda: records, 4 * 7)
    assert lines(manifest) == [f"line {at}" for at in range(10)]
    assert manifest.parts()["offset"].to_pylist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert manifest.parts()["first_row"].to_pylist() == list(range(10))
    parts = Path(root) / "parts"
    assert len(list(parts.iterdir())) == 13, "commit itself removes nothing"
    sweep(root)
    assert {f"parts/{p.name}" for p in parts.iterdir()} == set(manifest.parts()["path"].to_pylist())
    sweep(root)
    assert lines(existing(root)) == [f"line {at}" for at in range(10)]


def test_large_parts_stay_as_they_are(root):
    records = [record(root, at) for at in range(3)]
    manifest = commit(drafted(root), LINES, lambda: records, 7)
    assert manifest.parts()["path"].to_pylist() == [r.part.path for _, r in records]


def test_units_with_equal_rows_share_a_part_and_keep_their_places(root):
    records = [record(root, at, "same\n") for at in range(3)] + [record(root, 3)]
    assert lines(commit(drafted(root), LINES, lambda: records, 100)) == ["same", "same", "same", "line 3"]
    sweep(root)
    more = [record(root, 9), *records[::-1], record(root, 10)]
    assert lines(commit(drafted(root), LINES, lambda: more, 100)) == [
        "line 9",
        "line 3",
        "same",
        "same",
        "same",
        "line 10",
    ]


def test_a_packed_file_that_starts_with_empty_units_is_not_packed_twice(root):
    """All its lines have offset 0, so offsets cannot tell that it is packed."""
    first = [record(root, 0, ""), record(root, 1)]
    commit(drafted(root), LINES, lambda: first, 100)
    manifest = commit(drafted(root), LINES, lambda: [*first, record(root, 2)], 100)
    assert (manifest.rows, lines(manifest)) == (2, ["line 1", "line 2"])


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 120), st.booleans()), max_size=30),
    st.integers(1, 200),
)
def test_groups_are_runs_of_small_parts_that_stand_alone(drawn, file_bytes):
    alone, sizes = [single for _, _, single in drawn], [size for _, size, _ in drawn]
    groups = list(dataset._groups(alone, sizes, file_bytes))
    for start, stop in groups:
        assert stop - start > 1
        assert sum(sizes[start:stop]) <= file_bytes
        assert all(alone[start:stop])
    grouped = [i for start, stop in groups for i in range(start, stop)]
    assert grouped == sorted(set(grouped))
    for i, j in zip(range(len(drawn) - 1), range(1, len(drawn)), strict=True):
        together = drawn[i][1] + drawn[j][1] <= file_bytes and drawn[i][2] and drawn[j][2]
        assert not together or i in grouped or j in grouped, "two that fit are not both left alone"


# --- versions --------------------------------------------------------------------------------------------


def test_the_version_before_can_be_read_after_the_sweep_and_older_leftovers_go_with_the_next(root):
    kept = [record(root, 0)]
    first = commit(drafted(root), LINES, lambda: kept, 100)
    second = commit(drafted(root), LINES, lambda: [*kept, record(root, 1)], 100)
    sweep(root)
    assert lines(first) == ["line 0"], "version 2 packed this part; version 1 still names it"
    third = commit(drafted(root), LINES, lambda: [*kept, record(root, 1), record(root, 2)], 100)
    sweep(root)
    assert lines(second) == ["line 0", "line 1"]
    assert lines(third) == ["line 0", "line 1", "line 2"]
    with pytest.raises(FileNotFoundError):
        lines(first)


def test_another_fingerprint_makes_a_version_even_of_equal_rows(root):
    records = [record(root, at) for at in range(3)]
    assert commit(drafted(root, "f"), LINES, lambda: records, 100).version == 1
    sweep(root)
    other = commit(drafted(root, "g"), LINES, lambda: records, 100)
    assert (other.version, other.fingerprint) == (2, "g")
    assert lines(other) == ["line 0", "line 1", "line 2"]


def test_provenance_alone_makes_no_version(root):
    records = [record(root, 0)]
    first = commit(drafted(root), LINES, lambda: records, 100)
    later = draft(root, "lines", {"fingerprint": "f", "versions": {"numpy": "99"}}, SCHEMA)
    assert commit(later, LINES, lambda: records, 100) == first


# --- rivals, moment by moment ----------------------------------------------------------------------------


def test_a_rival_who_packs_and_sweeps_while_we_pack_costs_us_one_more_look(root):
    records = [record(root, at) for at in range(4)]
    rivals = []

    def rival_first(paths, target):
        if not rivals:
            rivals.append(commit(drafted(root), LINES, lambda: records, 100))
            sweep(root)
        pack(paths, target)

    ours = commit(drafted(root), Format(".txt", rival_first), lambda: records, 100)
    assert ours == rivals[0] == existing(root)
    assert lines(ours) == [f"line {at}" for at in range(4)]


def test_a_rival_who_sweeps_our_ledger_while_we_read_it_costs_us_one_more_look(root):
    records = [record(root, at) for at in range(4)]
    rivals = []

    def read():
        yield records[0]
        if not rivals:
            rivals.append(commit(drafted(root), LINES, lambda: records, 100))
            raise StorageError("the record is gone")
        yield from records[1:]

    assert commit(drafted(root), LINES, read, 100) == rivals[0]


def test_an_error_that_nobody_caused_is_raised(root):
    def read():
        raise StorageError("the store is down")
        yield

    with pytest.raises(StorageError, match="the store is down"):
        commit(drafted(root), LINES, read, 100)
    assert versions(root) == []


def test_a_rival_with_other_rows_gets_a_version_and_we_get_the_next(root):
    rivals = []

    def read():
        if not rivals:
            rivals.append(commit(drafted(root, "g"), LINES, lambda: [record(root, 7)], 100))
        return [record(root, 0), record(root, 1)]

    ours = commit(drafted(root), LINES, read, 100)
    assert (rivals[0].version, ours.version) == (1, 2)
    assert (lines(rivals[0]), lines(ours)) == (["line 7"], ["line 0", "line 1"])


def test_a_slow_committer_does_not_leave_an_older_copy_behind(root):
    """Ours is published; before we write ``manifest.json`` and the index, a rival publishes and writes both."""
    copy, finished = Path(root) / "manifest.json", []

    def finish(manifest):
        if not finished:
            finished.append(1)
            commit(drafted(root, "g"), Format(".txt", pack, finish), lambda: [record(root, 7)], 100)
        finished.append(manifest.version)

    ours = commit(drafted(root), Format(".txt", pack, finish), lambda: [record(root, 0)], 100)
    assert (ours.version, existing(root).version) == (1, 2)
    assert Manifest.load(root, copy.read_bytes()) == existing(root)
    assert finished[-1] == 2, "the index is that of the newest too"


def test_files_that_somebody_removed_are_missed_at_commit(root):
    records = [record(root, 0, "large enough\n"), record(root, 1)]
    Path(root, records[0][1].part.path).unlink()
    wanted = r"1 files that hold finished units are gone, the first: parts/\w+.txt; restore them, or remove the folders"
    with pytest.raises(DatasetError, match=wanted):
        commit(drafted(root), LINES, lambda: records, 10)
    assert newest(root) is None


# --- verification ----------------------------------------------------------------------------------------


@pytest.fixture
def published(root):
    from penstock.sinks.parquet import Parquet

    sink = Parquet(root, file_bytes=1)
    tables = [pa.table({"x": np.arange(at, at + 3)}) for at in range(2)]
    records = [(unit(at), Record(unit(at).key, sink.write(unit(at), table))) for at, table in enumerate(tables)]
    provenance = {"fingerprint": "f", "schema": SCHEMA.serialize().to_pybytes().hex()}
    return sink.commit(lambda: records, provenance)


def test_a_sound_dataset_passes(published):
    assert verify(published.uri) == published


def test_a_missing_file_is_named(published):
    name = published.parts()["path"][1].as_py()
    Path(published.uri, name).unlink()
    with pytest.raises(DatasetError, match=rf"{name} is missing; restore it, or make the dataset anew"):
        verify(published.uri)


def test_a_cut_file_is_named(published):
    path = Path(published.uri, published.parts()["path"][0].as_py())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=rf"{path.name} is damaged: it has \d+ bytes, \d+ were written; restore it"):
        verify(published.uri)


def test_a_flipped_bit_is_found(published):
    path = Path(published.uri, published.parts()["path"][0].as_py())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match=rf"{path.name} is damaged: its hash is not that of the manifest"):
        verify(published.uri)


def test_too_few_rows_are_found(root, tmp_path):
    """A part that says more rows than its file has."""
    import pyarrow.parquet as pq

    part = publish_part(root, ".parquet", lambda path: pq.write_table(pa.table({"x": [1]}), path), 2)
    manifest = commit(
        draft(root, "parquet", {"fingerprint": "f"}, SCHEMA),
        Format(".parquet", pack),
        lambda: [(unit(0), Record(unit(0).key, part))],
        1,
    )
    with pytest.raises(DatasetError, match="is damaged: it has 1 rows, the manifest counts on 2"):
        verify(manifest.uri)


def test_the_hash_is_sha256_of_the_bytes(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
