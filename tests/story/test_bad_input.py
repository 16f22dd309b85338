"""What a user meets with bad input: an error that says what to do, or a row in quarantine; and nothing else is lost."""

import gzip
import io
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.core import storage
from penstock.core.nouns import Pipeline, Step
from penstock.core.reading import read_table
from penstock.core.run import Quiet
from penstock.core.verify import verify
from penstock.errors import StorageError, TooManyBadRows, TooManyBadUnits
from penstock.runners.inline import Inline
from penstock.runners.ray import Ray
from penstock.sinks.parquet import Parquet
from penstock.sources.fasta import Fasta, Fastq
from penstock.sources.parquet import Parquet as ParquetSource
from penstock.sources.text import Csv, Jsonl, Text
from penstock.stages.clean import Clean
from penstock.stages.function import Function

OWN = """
import pyarrow as pa, pyarrow.compute as pc

def inverse(batch):
    return batch.append_column("inverse", pa.array([1 / int(text) for text in batch["text"].to_pylist()]))

def without_digits(batch):
    mended = pc.replace_substring_regex(batch["sequence"], pattern="[0-9]", replacement="G")
    return batch.set_column(batch.column_names.index("sequence"), "sequence", mended)
"""
LONG = 50_000_000

HEAD = {".csv": b"id,n\n"}
RECORD = {
    ".fa": b">%b\nMKV\n",
    ".fq": b"@%b\nACGT\n+\nIIII\n",
    ".txt": b"%b\n",
    ".jsonl": b'{"id": "%b"}\n',
    ".csv": b"%b,1\n",
}
SOURCE = {
    ".fa": Fasta,
    ".fq": Fastq,
    ".txt": Text,
    ".jsonl": lambda uri: Jsonl(uri, {"id": "string"}),
    ".csv": lambda uri: Csv(uri, {"id": "string", "n": "int64"}),
    ".parquet": ParquetSource,
}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A module of the user's, on PYTHONPATH."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_functions.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield


@pytest.fixture(scope="module")
def ray_up(own):
    """One Ray for all tests of this module."""
    with Ray(object_store_bytes=200 << 20).session():
        yield


@pytest.fixture(params=["inline", "ray"])
def runner(request, own):
    if request.param == "inline":
        return Inline()
    request.getfixturevalue("ray_up")
    return Ray()


def content(suffix, *names):
    """A good file of one record for each name."""
    if suffix.endswith(".gz"):
        return gzip.compress(content(suffix.removesuffix(".gz"), *names))
    if suffix == ".parquet":
        file = io.BytesIO()
        pq.write_table(pa.table({"id": list(names)}), file)
        return file.getvalue()
    return HEAD.get(suffix, b"") + b"".join(RECORD[suffix] % name.encode() for name in names)


def folder(tmp_path, suffix, data):
    """Three files: the middle one has *data*, the others two good records each."""
    root = tmp_path / "raw"
    root.mkdir()
    for name, bytes_ in (("a", content(suffix, "a1", "a2")), ("b", data), ("c", content(suffix, "c1", "c2"))):
        (root / f"{name}{suffix}").write_bytes(bytes_)
    return root


def line(tmp_path, source, *stages, **limits):
    return Pipeline("line", source, Parquet(str(tmp_path / "out")), tuple(map(Step, stages)), **limits)


def names(tmp_path):
    """The first column of the dataset, whose parts are all as committed."""
    verify(str(tmp_path / "out"))
    return read_table(str(tmp_path / "out")).column(0).to_pylist()


def quarantined(tmp_path):
    files = sorted((tmp_path / "out" / "quarantine").rglob("*.parquet"))
    return [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]


class Meddler(Quiet):
    """Does something after the files were listed and before the first is read."""

    def __init__(self, deed):
        self.deed = deed

    def begin(self, pipeline, units, skipped):
        self.deed()


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


# --- one record is bad -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "piece", "error", "row"),
    [
        (".fa", b">empty\n", "the record has no sequence", {"id": "empty", "sequence": ""}),
        (
            ".fa",
            b">Z\xfcrich\nMKV\n",
            "the text is not UTF-8: byte 0xfc at place 1 of it",
            {"id": r"Z\xfcrich", "sequence": "MKV"},
        ),
        (
            ".fq",
            b"@short 1\nACGT\n+\nIII\n",
            "the record has 4 bases and 3 qualities; is the file cut short?",
            {"id": "short", "description": "1", "sequence": "ACGT", "quality": "III"},
        ),
        (".fq", b"@empty\n\n+\n\n", "the record has no sequence", {"id": "empty", "sequence": "", "quality": ""}),
        (
            ".txt",
            b"caf\xe9\n",
            "the text is not UTF-8: byte 0xe9 at place 3 of it",
            {"text": r"caf\xe9"},
        ),
        (
            ".jsonl",
            b'{"id": \n',
            "the line at byte 13: one JSON object on one line, {...}, was needed",
            {"line": '{"id": '},
        ),
        (".csv", b"x,one\n", "invalid value 'one'", {"line": "x,one"}),
    ],
    ids=["zero-length", "not-utf8-header", "unequal-quality", "zero-length-fastq", "not-utf8", "json", "csv"],
)
def test_a_bad_record_is_quarantined_and_its_neighbours_arrive(runner, tmp_path, suffix, piece, error, row):
    good = content(suffix, "b1")
    root = folder(tmp_path, suffix, good + piece + RECORD[suffix] % b"b2")
    pipeline = line(tmp_path, SOURCE[suffix](str(root)))
    report = runner.run(pipeline)
    assert (report.rows, report.bad_rows, report.bad_units) == (6, 1, 0)
    assert names(tmp_path) == ["a1", "a2", "b1", "b2", "c1", "c2"]
    [found] = quarantined(tmp_path)
    assert error in found["_error"]
    assert row.items() <= found.items(), "the record as it was"
    assert (found["_step"], found["_uri"]) == ("read", str(root / f"b{suffix}"))
    assert runner.run(pipeline).skipped == 3

    (root / f"b{suffix}").write_bytes(good + RECORD[suffix] % b"mended" + RECORD[suffix] % b"b2")
    again = runner.run(pipeline)
    assert (again.skipped, again.bad_rows) == (2, 0)
    assert names(tmp_path) == ["a1", "a2", "b1", "mended", "b2", "c1", "c2"]


def test_what_stands_before_the_first_header_is_quarantined(runner, tmp_path):
    root = folder(tmp_path, ".fa", b"MKVL\n>b1\nMKV\n")
    runner.run(line(tmp_path, Fasta(str(root))))
    assert names(tmp_path) == ["a1", "a2", "b1", "c1", "c2"]
    [row] = quarantined(tmp_path)
    assert row["_error"] == "4 bytes stand before the first header of the file, which begins with '>'"
    assert row["sequence"] == "MKVL"


def test_one_row_in_a_hundred_that_an_own_function_fails_on_costs_one_row(runner, tmp_path):
    file = tmp_path / "numbers.txt"
    file.write_text("".join(f"{(n - 37)}\n" for n in range(100)))
    pipeline = line(tmp_path, Text(str(file)), Function("own_functions:inverse", {"inverse": "float64"}))
    report = runner.run(pipeline)
    assert (report.rows, report.bad_rows) == (99, 1)
    table = read_table(str(tmp_path / "out"))
    assert table["inverse"].to_pylist() == [1 / (n - 37) for n in range(100) if n != 37]
    [row] = quarantined(tmp_path)
    assert (row["text"], row["_error"]) == ("0", "ZeroDivisionError: division by zero")
    assert row["_step"] == "1-function"


def test_the_quarantine_is_a_source_and_gives_the_mended_rows(runner, tmp_path):
    root = folder(tmp_path, ".fa", b">b1\nMKV\n>b2 light\nM1V\n>b3\nM2V\n")
    runner.run(line(tmp_path, Fasta(str(root)), Clean(alphabet="protein")))
    assert names(tmp_path) == ["a1", "a2", "b1", "c1", "c2"]
    wanted = ("id", "description", "sequence")
    steps = (Step(Function("own_functions:without_digits")), Step(Clean(alphabet="protein")))
    source = ParquetSource(str(tmp_path / "out" / "quarantine"), wanted)
    report = runner.run(Pipeline("mended", source, Parquet(str(tmp_path / "mended")), steps))
    assert (report.rows, report.bad_rows) == (2, 0)
    rows = [tuple(row.values()) for row in read_table(str(tmp_path / "mended"), wanted).to_pylist()]
    assert rows == [("b2", "light", "MGV"), ("b3", "", "MGV")]


def test_rows_that_were_mended_in_their_file_are_not_read_from_the_quarantine_again(runner, tmp_path):
    root = folder(tmp_path, ".fa", b">b1\nMKV\n>b2\nM1V\n")
    (root / "d.fa").write_bytes(b">d1\nM3V\n")
    pipeline = line(tmp_path, Fasta(str(root)), Clean(alphabet="protein"))
    again = Pipeline("again", ParquetSource(str(tmp_path / "out" / "quarantine")), Parquet(str(tmp_path / "again")))
    assert runner.run(pipeline).bad_rows == runner.run(again).rows == 2
    (root / "b.fa").write_bytes(content(".fa", "b1", "b2"))
    assert runner.run(pipeline).bad_rows == runner.run(again).rows == 1
    assert read_table(str(tmp_path / "again"), ("id",))["id"].to_pylist() == ["d1"]
    (root / "d.fa").unlink()
    runner.run(pipeline)
    with pytest.raises(StorageError, match=r"version 3 of .*out has no quarantined rows there"):
        runner.run(again)
    assert names(tmp_path) == ["a1", "a2", "b1", "b2", "c1", "c2"]


# --- a file is bad ---------------------------------------------------------------------------------------

MANY = content(".fa.gz", *(f"b{n * n}" for n in range(1000)))


@pytest.mark.parametrize(
    ("suffix", "data", "error"),
    [
        (".fa.gz", MANY[: len(MANY) // 2], r"the gzip file ends in the middle after [\d,]+ bytes .* copy it again"),
        (".fa.gz", MANY[:-4], "the gzip file ends in the middle after"),
        (".txt.gz", b"no gzip at all\n", "the gzip file is damaged .* copy it again from where it came"),
        (".fa", b"MKVMKV\nMKV\n", "a FASTA record, which begins with '>', was needed .* is it another file"),
        (".fa", b"@b1\nACGT\n+\nIIII\n", 'it looks like FASTQ; write use = "fastq"'),
        (".csv", b"name,n\nx,1\n", "column 'id' stands 0 times in the first line, once was needed"),
        (".parquet", content(".parquet", "x")[:-9], "this is no Parquet file, or a damaged one .* copy it again"),
        (".parquet", b"", "this is no Parquet file, or a damaged one .* copy it again"),
    ],
    ids=["cut-gzip", "gzip-tail", "no-gzip", "no-header", "fastq-as-fasta", "no-column", "cut-parquet", "no-parquet"],
)
def test_a_bad_file_is_named_and_the_others_are_kept_until_it_is_mended(runner, tmp_path, suffix, data, error):
    root = folder(tmp_path, suffix, data)
    pipeline = line(tmp_path, SOURCE[suffix.removesuffix(".gz")](str(root)))
    with pytest.raises(TooManyBadUnits, match=error) as told:
        runner.run(pipeline)
    assert "1 units failed, max_bad_units allows 0; the others are done and kept. Mend these" in str(told.value)
    assert str(root / f"b{suffix}") in str(told.value)
    assert not (tmp_path / "out" / "manifest.json").exists(), "no dataset that lacks a file"

    (root / f"b{suffix}").write_bytes(content(suffix, "b1", "b2"))
    report = runner.run(pipeline)
    assert (report.skipped, report.bad_units) == (2, 0)
    assert names(tmp_path) == ["a1", "a2", "b1", "b2", "c1", "c2"]


def test_a_bad_file_may_be_left_out_by_a_limit_and_is_counted(runner, tmp_path):
    root = folder(tmp_path, ".fa", b"MKV\n")
    report = runner.run(line(tmp_path, Fasta(str(root)), max_bad_units=1))
    assert (report.rows, report.bad_units) == (4, 1)
    assert names(tmp_path) == ["a1", "a2", "c1", "c2"]


@pytest.mark.parametrize("suffix", [".fa", ".fq", ".txt", ".jsonl", ".csv", ".fa.gz"])
def test_an_empty_file_has_no_rows_and_is_no_error(runner, tmp_path, suffix):
    root = folder(tmp_path, suffix, b"")
    report = runner.run(line(tmp_path, SOURCE[suffix.removesuffix(".gz")](str(root))))
    assert (report.units, report.rows, report.bad_rows, report.bad_units) == (3, 4, 0, 0)
    assert names(tmp_path) == ["a1", "a2", "c1", "c2"]


def test_nothing_but_an_empty_file_makes_an_empty_dataset(runner, tmp_path):
    (tmp_path / "raw.txt").touch()
    assert runner.run(line(tmp_path, Text(str(tmp_path / "raw.txt")))).rows == 0
    assert names(tmp_path) == []


def test_empty_lines_of_a_text_are_rows(runner, tmp_path):
    root = folder(tmp_path, ".txt", b"b1\n\nb2\n")
    runner.run(line(tmp_path, Text(str(root))))
    assert names(tmp_path) == ["a1", "a2", "b1", "", "b2", "c1", "c2"]


def test_a_line_of_fifty_megabytes_arrives_whole(runner, tmp_path):
    root = folder(tmp_path, ".txt", b"b1\n" + b"x" * LONG + b"\nb2\n")
    runner.run(line(tmp_path, Text(str(root))))
    rows = names(tmp_path)
    assert rows.pop(3) == "x" * LONG
    assert rows == ["a1", "a2", "b1", "b2", "c1", "c2"]


def test_a_line_of_fifty_megabytes_is_quarantined_where_there_is_a_limit(runner, tmp_path):
    root = folder(tmp_path, ".fa", b">b1\nMKV\n>long\n" + b"M" * LONG + b"\n>b2\nMKV\n")
    runner.run(line(tmp_path, Fasta(str(root)), Clean(alphabet="protein", max_length=1000)))
    assert names(tmp_path) == ["a1", "a2", "b1", "b2", "c1", "c2"]
    [row] = quarantined(tmp_path)
    assert row["_error"] == "sequence has 50000000 letters, at most 1000 are allowed"
    assert row["sequence"] == "M" * LONG


# --- the same name twice ---------------------------------------------------------------------------------


def test_rows_with_the_same_id_are_kept(runner, tmp_path):
    root = folder(tmp_path, ".fa", content(".fa", "a1", "b1", "b1"))
    assert runner.run(line(tmp_path, Fasta(str(root)))).bad_rows == 0
    assert names(tmp_path) == ["a1", "a2", "a1", "b1", "b1", "c1", "c2"]


def test_clean_unique_drops_repeats_of_a_unit_and_keeps_those_of_others(runner, tmp_path):
    root = folder(tmp_path, ".fa", content(".fa", "a1", "b1", "b1"))
    report = runner.run(line(tmp_path, Fasta(str(root)), Clean(alphabet="protein", unique=("id",))))
    assert report.bad_rows == 0, "dropped, not quarantined: who asks for unique rows expects repeats"
    assert names(tmp_path) == ["a1", "a2", "a1", "b1", "c1", "c2"]


# --- files that go and come ------------------------------------------------------------------------------


def test_a_file_that_vanishes_after_it_was_listed_is_named(runner, tmp_path):
    root = folder(tmp_path, ".fa", content(".fa", "b1"))
    pipeline = line(tmp_path, Fasta(str(root)))
    with pytest.raises(TooManyBadUnits, match=r"cannot read .*b\.fa: no such file or folder"):
        runner.run(pipeline, Meddler((root / "b.fa").unlink))
    (root / "b.fa").write_bytes(content(".fa", "b1", "b2"))
    assert runner.run(pipeline).skipped == 2
    assert names(tmp_path) == ["a1", "a2", "b1", "b2", "c1", "c2"]


def test_a_file_that_changes_during_the_run_is_not_read_half(runner, tmp_path):
    root = folder(tmp_path, ".fa", content(".fa", "b1"))
    pipeline = line(tmp_path, Fasta(str(root)))
    with pytest.raises(TooManyBadUnits, match=r"b\.fa: it changed while the run was going on; run again"):
        runner.run(pipeline, Meddler(lambda: (root / "b.fa").write_bytes(content(".fa", "b1", "b2"))))
    assert runner.run(pipeline).skipped == 2
    assert names(tmp_path) == ["a1", "a2", "b1", "b2", "c1", "c2"]


def test_a_link_that_leads_nowhere_is_named(runner, tmp_path):
    root = folder(tmp_path, ".fa", content(".fa", "b1"))
    (root / "b.fa").unlink()
    (root / "b.fa").symlink_to(root / "gone")
    with pytest.raises(StorageError, match=r"b\.fa: the link leads nowhere; mend or remove it"):
        runner.run(line(tmp_path, Fasta(str(root))))
    (root / "b.fa").unlink()
    runner.run(line(tmp_path, Fasta(str(root))))
    assert names(tmp_path) == ["a1", "a2", "c1", "c2"]


def test_columns_that_changed_between_two_runs_are_read_anew(runner, tmp_path):
    root = folder(tmp_path, ".parquet", content(".parquet", "b1"))
    runner.run(line(tmp_path, ParquetSource(str(root))))
    for file in root.iterdir():
        pq.write_table(pa.table({"id": [f"{file.stem}9"], "n": [9]}), file)
    runner.run(line(tmp_path, ParquetSource(str(root))))
    assert read_table(str(tmp_path / "out")).to_pylist() == [{"id": f"{stem}9", "n": 9} for stem in "abc"]


# --- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Zürich daten/Ergebnis 1", "データ #1/50% [a]", "'x' \"y\" & $HOME;/-b?"])
def test_spaces_and_other_letters_in_paths(runner, tmp_path, name):
    place = tmp_path / name
    place.mkdir(parents=True)
    root = folder(place, ".fa", content(".fa", "b1"))
    (root / "ç d [1].fa").write_bytes(content(".fa", "ç1"))
    runner.run(line(place, Fasta(str(root)), Clean(alphabet="protein")))
    assert names(place) == ["a1", "a2", "b1", "c1", "c2", "ç1"]
    one = Fasta(str(root / "ç d [1].fa"))
    assert runner.run(Pipeline("one", one, Parquet(str(place / "one out")))).rows == 1


def test_a_file_name_that_is_not_utf8_is_told(runner, tmp_path):
    root = folder(tmp_path, ".fa", content(".fa", "b1"))
    wrong = (root / "b.fa").rename(root / os.fsdecode(b"Z\xfcrich.fa"))
    with pytest.raises(StorageError, match=r"Z\\xfcrich\.fa: the name is not UTF-8; rename it"):
        runner.run(line(tmp_path, Fasta(str(root))))
    wrong.rename(root / "b.fa")
    runner.run(line(tmp_path, Fasta(str(root))))
    assert names(tmp_path) == ["a1", "a2", "b1", "c1", "c2"]


# --- object stores ---------------------------------------------------------------------------------------


@pytest.fixture
def wrong_secret(s3, monkeypatch):
    """Call it, and the secret key is wrong from then on; call what it gives, and it is right again."""

    def spoil():
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "WRONG")
        storage._client.cache_clear()

    def mend():
        monkeypatch.undo()
        storage._client.cache_clear()

    yield spoil, mend
    mend()


def put(root, suffix=".fa"):
    for name in "abc":
        storage.store_of(root).replace(f"{root}/{name}{suffix}", content(suffix, f"{name}1"))


def test_a_bucket_that_is_not_there_is_named(s3_root, tmp_path):
    put(f"{s3_root}/raw")
    text = r"s3://no-such-bucket/\S*: there is no such bucket; create it or check the spelling"
    with pytest.raises(StorageError, match=f"cannot list {text}"):
        Inline().run(line(tmp_path, Fasta("s3://no-such-bucket/raw")))
    with pytest.raises(StorageError, match=text):
        Inline().run(Pipeline("line", Fasta(f"{s3_root}/raw"), Parquet("s3://no-such-bucket/out")))
    assert Inline().run(Pipeline("line", Fasta(f"{s3_root}/raw"), Parquet(f"{s3_root}/out"))).rows == 3


def test_a_prefix_that_is_not_there_is_named(s3_root, tmp_path):
    with pytest.raises(StorageError, match="there is no such object or prefix; check the spelling"):
        Inline().run(line(tmp_path, Fasta(f"{s3_root}/nothing")))


def test_a_wrong_secret_is_told_and_done_units_are_kept(s3_root, wrong_secret, tmp_path):
    spoil, mend = wrong_secret
    put(f"{s3_root}/raw")
    pipeline = Pipeline("line", Fasta(f"{s3_root}/raw"), Parquet(f"{s3_root}/out"))
    assert Inline().run(pipeline).rows == 3
    put(f"{s3_root}/raw/more")
    spoil()
    with pytest.raises(StorageError, match="the secret key is wrong; check AWS_SECRET_ACCESS_KEY or the profile"):
        Inline().run(pipeline)
    mend()
    report = Inline().run(pipeline)
    assert (report.rows, report.skipped) == (6, 3)


def test_a_secret_that_ends_during_the_run_costs_no_unit(s3_root, wrong_secret, tmp_path):
    spoil, mend = wrong_secret
    put(f"{s3_root}/raw")
    pipeline = line(tmp_path, Fasta(f"{s3_root}/raw"))
    with pytest.raises(TooManyBadUnits, match=r"raw/b\.fa: the secret key is wrong"):
        Inline().run(pipeline, Meddler(spoil))
    mend()
    assert Inline().run(pipeline).rows == 3
    assert names(tmp_path) == ["a1", "b1", "c1"]


def test_spaces_and_other_letters_in_keys(s3_root):
    root = f"{s3_root}/Zürich daten #1 & 50%/データ + [a]"
    put(f"{root}/raw")
    report = Inline().run(Pipeline("line", Fasta(f"{root}/raw"), Parquet(f"{root}/out dir")))
    assert report.rows == 3
    assert len(list(Fasta(f"{root}/raw/a.fa").units())) == 1
    verify(f"{root}/out dir")
    assert read_table(f"{root}/out dir", ("id",))["id"].to_pylist() == ["a1", "b1", "c1"]


# --- on the command line ---------------------------------------------------------------------------------

FILE = """
[pipeline.lines]
source = { use = "text", uri = "notes.txt" }
sink = { use = "parquet", uri = "out" }
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "notes.txt").write_bytes(b"one\ncaf\xe9\nthree\n")
    (tmp_path / "line.toml").write_text(FILE)
    return tmp_path / "line.toml"


def test_a_run_with_a_bad_row_says_how_many_and_ends_well(runner, file):
    done = call("run", file, "--runner", type(runner).__name__.lower())
    assert done.exit_code == 0, done.output
    assert re.search(r"lines: 2 rows, 1 units \(0 were done before\), 1 rows quarantined", done.stdout)
    assert names(file.parent) == ["one", "three"]


def test_without_an_allowance_a_bad_row_ends_the_run_and_costs_nothing(runner, file):
    words = ("run", file, "--runner", type(runner).__name__.lower())
    file.write_text(FILE + "max_bad_rows = 0\n")
    done = call(*words)
    assert done.exit_code == 1
    assert "1 rows were quarantined, max_bad_rows allows 0; look at" in done.stderr
    assert "then mend the input or raise the limit" in done.stderr
    assert "Traceback" not in done.output
    assert [row["text"] for row in quarantined(file.parent)] == [r"caf\xe9"], "there is something to look at"

    file.write_text(FILE + "max_bad_rows = 1\n")
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert "(1 were done before), 1 rows quarantined" in done.stdout
    assert names(file.parent) == ["one", "three"]


def test_too_many_bad_rows_leave_a_dataset_of_before_as_it_was(runner, tmp_path):
    root = folder(tmp_path, ".txt", content(".txt", "b1"))
    pipeline = line(tmp_path, Text(str(root)), max_bad_rows=0)
    runner.run(pipeline)
    (root / "d.txt").write_bytes(b"d1\n\xff\n")
    with pytest.raises(TooManyBadRows, match="1 rows were quarantined, max_bad_rows allows 0"):
        runner.run(pipeline)
    assert names(tmp_path) == ["a1", "a2", "b1", "c1", "c2"]


def test_a_bucket_that_is_not_there_is_an_error_without_a_traceback(s3, file):
    file.write_text(FILE.replace("notes.txt", "s3://no-such-bucket/notes.txt"))
    done = call("run", file)
    assert done.exit_code == 1
    assert "there is no such bucket; create it or check the spelling" in done.stderr
    assert "Traceback" not in done.output
