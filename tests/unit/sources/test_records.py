import gzip
import io
import itertools
import tracemalloc
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.nouns import Unit
from penstock.errors import SpecError, StorageError
from penstock.sources.fasta import Fasta
from penstock.sources.records import LINES, Border, Gunzip, blocks, cut, one_by_one
from penstock.sources.text import Text

few = settings(deadline=None, max_examples=40)

FASTA = Border(b"\n>")


def naive_starts(data: bytes, mark: bytes) -> list[int]:
    return [i for i in range(len(data)) if i == 0 or data[i - 1 :].startswith(mark)]


@few
@given(st.text("a>\n", max_size=60).map(str.encode), st.integers(1, 70), st.sampled_from([LINES, FASTA]))
def test_each_record_begins_in_exactly_one_range(data, size, border):
    found = []
    for start in range(0, len(data), size):
        file = io.BytesIO(data[max(start - 1, 0) :])
        found += blocks(file, start, min(start + size, len(data)), border)
    assert b"".join(block for _, block in found) == data
    assert [at for at, _ in found] == [at for at, _ in found if at in naive_starts(data, border.mark)]


def test_a_long_record_is_read_once_and_not_by_the_ranges_it_covers(monkeypatch):
    monkeypatch.setattr("penstock.sources.records._BLOCK_BYTES", 1000)
    monkeypatch.setattr("penstock.sources.records._AHEAD_BYTES", 100)
    data = b">a\n" + b"A" * 100_000 + b"\n>b\nC\n"

    class Counted(io.BytesIO):
        taken = 0

        def read(self, size=-1):
            piece = super().read(size)
            Counted.taken += len(piece)
            return piece

    for start in range(0, len(data), 1000):
        list(blocks(Counted(data[max(start - 1, 0) :]), start, start + 1000, FASTA))
    assert Counted.taken < 4 * len(data)


def test_a_record_longer_than_a_column_can_hold_is_refused(monkeypatch):
    monkeypatch.setattr("penstock.sources.records._LONGEST_BYTES", 1 << 20)
    with pytest.raises(Exception, match=r"the record that begins at byte 3 is longer than 1,048,576 bytes"):
        list(blocks(io.BytesIO(b">a\n>" + b"A" * (40 << 20)), 0, 5, FASTA))


@few
@given(st.lists(st.binary(max_size=300), max_size=4), st.integers(1, 50), st.sampled_from([b"", b"\0" * 700]))
def test_gunzip_gives_all_members(members, size, padding):
    packed = b"".join(gzip.compress(member) for member in members) + (padding if members else b"")
    stream = Gunzip(io.BytesIO(packed))
    content = b"".join(iter(lambda: stream.read(size), b""))
    assert (content, stream.damage) == (b"".join(members), "")
    assert (stream.given_bytes, stream.taken_bytes) == (len(content), len(packed))


def test_gunzip_tells_every_cut_in_a_member():
    data = bytes(range(256)) * 20
    packed = gzip.compress(data[:2560]) + gzip.compress(data[2560:])
    border = len(gzip.compress(data[:2560]))
    for length in range(len(packed) + 1):
        stream = Gunzip(io.BytesIO(packed[:length]))
        content = stream.read(1 << 20)
        assert data.startswith(content)
        assert stream.damage == ("" if length in (0, border, len(packed)) else "ends in the middle")


def test_gunzip_tells_damage():
    packed = bytearray(gzip.compress(b"hello" * 1000))
    packed[-6] ^= 1
    stream = Gunzip(io.BytesIO(packed))
    stream.read(1 << 20)
    assert "incorrect data check" in stream.damage


def test_gunzip_holds_little(tmp_path):
    packer = zlib.compressobj(wbits=31)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(40)) + packer.flush()
    stream = Gunzip(io.BytesIO(packed))
    tracemalloc.start()
    total = sum(len(piece) for piece in iter(lambda: stream.read(1 << 20), b""))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 40 << 20
    assert peak < 5 << 20


def test_units_are_a_stream(tmp_path):
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    units = Text(str(tmp_path / "large.txt"), unit_bytes=1).units()
    tracemalloc.start()
    assert sum(1 for _ in itertools.islice(units, 3_000)) == 3_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_units_follow_the_content_and_the_range(tmp_path):
    path = tmp_path / "a.fa"
    path.write_bytes(b">a\nMKV\n>b\nGG\n")
    first = list(Fasta(str(path), unit_bytes=5).units())
    assert [(unit.start, unit.stop, unit.size_bytes) for unit in first] == [(0, 5, 5), (5, 10, 5), (10, 13, 3)]
    path.write_bytes(b">a\nMKV\n>b\nGGG\n")
    assert not {unit.key for unit in first} & {unit.key for unit in Fasta(str(path), unit_bytes=5).units()}


def test_a_compressed_file_is_one_unit_and_so_is_an_empty_one(tmp_path):
    (tmp_path / "a.fa.gz").write_bytes(gzip.compress(b">a\nMKV\n" * 100))
    (tmp_path / "b.fa").write_bytes(b"")
    size = (tmp_path / "a.fa.gz").stat().st_size
    units = list(cut(str(tmp_path), (".fa",), 5))
    assert [(Path(unit.uri).name, unit.start, unit.stop) for unit in units] == [("a.fa.gz", 0, size), ("b.fa", 0, 0)]


@pytest.mark.parametrize("size", [0, -1])
def test_a_unit_has_a_byte(tmp_path, size):
    with pytest.raises(SpecError, match=rf"unit_bytes = {size}: 1 or more was needed"):
        next(Fasta(str(tmp_path), unit_bytes=size).units())


def test_a_file_that_changed_since_it_was_listed_is_refused(tmp_path):
    path = tmp_path / "a.fa"
    path.write_bytes(b">a\nMKV\n")
    (unit,) = Fasta(str(path)).units()
    path.write_bytes(b">a\nMKVV\n")
    with pytest.raises(StorageError, match=r"a\.fa: it changed while the run was going on; run again"):
        Fasta(str(path)).read(unit)
    path.unlink()
    with pytest.raises(StorageError, match=r"cannot read .*a\.fa: no such file or folder"):
        Fasta(str(path)).read(unit)


def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    (tmp_path / "a.fa").mkdir()
    unit = Unit.of(str(tmp_path / "a.fa"), None, 0, 10)
    with pytest.raises(StorageError, match="this is a folder, a file was needed"):
        Fasta(str(tmp_path)).read(unit)


def test_texts_become_rows_one_by_one_and_refused_ones_keep_their_text():
    schema = pa.schema({"name": pa.string(), "number": pa.int64()})
    found = one_by_one(schema, ["1", "x", "22"], lambda text: {"name": "n" + text, "number": int(text)}, told="name")
    assert found.good.to_pylist() == [{"name": "n1", "number": 1}, {"name": "n22", "number": 22}]
    assert found.bad.to_pylist() == [{"name": "x", "number": None}]
    assert found.reasons == ["invalid literal for int() with base 10: 'x'"]
