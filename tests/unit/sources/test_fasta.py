import gzip
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import RowErrors, UnitError
from penstock.sources.fasta import Fasta, Fastq

few = settings(deadline=None, max_examples=40)

words = st.text("abcXYZ019|._é>@+", min_size=1, max_size=8)
descriptions = st.lists(words, max_size=3).map(" ".join)
letters = st.text("ACDEFGHIKLMNPQRSTVWYacgtn*-", min_size=1, max_size=40)
ends = st.sampled_from(["\n", "\r\n"])
sizes = st.one_of(st.integers(1, 20), st.integers(1, 400))


# --- FASTA -----------------------------------------------------------------------------------------------


@st.composite
def fasta_files(draw):
    """Records, and a file of them with lines broken here and there."""
    rows = draw(st.lists(st.tuples(words, descriptions, letters), max_size=8))
    end, text = draw(ends), ""
    for name, description, sequence in rows:
        width = draw(st.integers(1, 45))
        lines = [sequence[i : i + width] for i in range(0, len(sequence), width)]
        text += f">{name} {description}{end}{end.join(lines)}{end * draw(st.integers(1, 2))}"
    text = text.rstrip("\r\n") if draw(st.booleans()) else text
    bom = "\ufeff" if draw(st.booleans()) and rows else ""
    return [dict(zip(("id", "description", "sequence"), row, strict=True)) for row in rows], (bom + text).encode()


@few
@given(fasta_files(), sizes)
def test_fasta_gives_all_records_however_it_is_cut(read_bytes, file, size):
    rows, data = file
    assert read_bytes(Fasta, data, ".fa", unit_bytes=size) == (rows, [])


@few
@given(fasta_files())
def test_fasta_gives_all_records_of_a_compressed_file(read_bytes, file):
    rows, data = file
    assert read_bytes(Fasta, data, ".fa.gz") == (rows, [])


@few
@given(
    st.lists(
        st.sampled_from([b">", b">a", b">b x", b"\n", b"\r\n", b"ACG", b" ", b"\t", b"\xff", b"@", b"\xc3\xa9"]),
        max_size=20,
    ),
    sizes,
)
@example([b">a", b"\r", b"\n", b">b"], 3)
def test_fasta_gives_the_same_of_any_bytes_however_they_are_cut(read_bytes, pieces, size):
    data = b">first\nM\n" + b"".join(pieces)
    assert read_bytes(Fasta, data, ".fa", unit_bytes=size) == read_bytes(Fasta, data, ".fa")
    assert read_bytes(Fasta, data, ".fa.gz", size) == read_bytes(Fasta, data, ".fa")


def naive_fasta(text: str) -> list[dict]:
    rows = []
    for line in text.splitlines():
        if line.startswith(">"):
            name, _, rest = line[1:].strip().partition(" ")
            rows.append({"id": name, "description": rest.strip(), "sequence": ""})
        elif rows:
            rows[-1]["sequence"] += "".join(line.split())
    return rows


@few
@given(st.text("> \nACG", max_size=80), sizes)
def test_fasta_agrees_with_a_naive_parser(read_bytes, text, size):
    text = ">x\nM\n" + text
    rows = naive_fasta(text)
    good, bad = read_bytes(Fasta, text.encode(), ".fa", unit_bytes=size)
    assert good == [row for row in rows if row["sequence"]]
    assert [row for row, _ in bad] == [row for row in rows if not row["sequence"]]


def test_fasta_takes_the_first_word_as_id(read_bytes):
    data = b">sp|P1|X\t a  protein \nMKV AAA\n\nGG\n>\nMK\n> b\nM*\n"
    assert read_bytes(Fasta, data, ".fasta")[0] == [
        {"id": "sp|P1|X", "description": "a  protein", "sequence": "MKVAAAGG"},
        {"id": "", "description": "", "sequence": "MK"},
        {"id": "b", "description": "", "sequence": "M*"},
    ]


def test_fasta_puts_records_without_a_sequence_aside(read_bytes):
    good, bad = read_bytes(Fasta, b">a\nMK\n>empty one\n>b\nGG\n>last", ".fa")
    assert [row["id"] for row in good] == ["a", "b"]
    assert bad == [
        ({"id": "empty", "description": "one", "sequence": ""}, "the record has no sequence"),
        ({"id": "last", "description": "", "sequence": ""}, "the record has no sequence"),
    ]


def test_fasta_puts_text_that_is_not_utf8_aside(read_bytes):
    good, bad = read_bytes(Fasta, b">a\nMK\n>b \xe9t\nGG\n>c\xc3\xa9\nAA\n", ".fa")
    assert [row["id"] for row in good] == ["a", "cé"]
    assert bad == [
        (
            {"id": "b", "description": "\\xe9t", "sequence": "GG"},
            "the text is not UTF-8: byte 0xe9 at place 2 of it",
        )
    ]


@pytest.mark.parametrize("size", [3, 1000])
def test_fasta_puts_what_stands_before_the_first_header_aside(read_bytes, size):
    good, bad = read_bytes(Fasta, b"# a comment\nMKV\n>a\nMK\n", ".fa", unit_bytes=size)
    assert [row["id"] for row in good] == ["a"]
    assert bad == [
        (
            {"id": "", "description": "", "sequence": "# a comment\nMKV"},
            "15 bytes stand before the first header of the file, which begins with '>'",
        )
    ]


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"MKVLAA\nGGG\n", "is it another file?"),
        (b"@read1\nACGT\n+\nIIII\n", 'it looks like FASTQ; write use = "fastq"'),
        (gzip.compress(b">a\nM\n", mtime=0), "it looks like gzip; let its name end with .gz"),
    ],
)
@pytest.mark.parametrize("size", [3, 1000])
def test_fasta_without_a_header_is_refused(tmp_path, data, hint, size):
    (tmp_path / "a.fa").write_bytes(data)
    source = Fasta(str(tmp_path), unit_bytes=size)
    first, *others = source.units()
    with pytest.raises(
        UnitError, match=r"a\.fa: a FASTA record, which begins with '>', was needed in the first"
    ) as told:
        source.read(first)
    assert str(told.value).endswith(hint)
    assert sum(source.read(unit).num_rows for unit in others) == 0


@pytest.mark.parametrize("kind", [Fasta, Fastq])
@pytest.mark.parametrize("data", [b"", b"\n", b"\r\n \n"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_empty_file_gives_no_rows(read_bytes, kind, data, suffix):
    assert read_bytes(kind, data, f".x{suffix}") == ([], [])


def test_a_zipped_file_of_no_bytes_gives_no_rows(tmp_path, read):
    (tmp_path / "a.fa.gz").write_bytes(b"")
    assert read(Fasta(str(tmp_path))) == ([], [])


def test_a_truncated_gzip_file_is_refused(tmp_path):
    data = gzip.compress(b"".join(b">r%d\n%d\n" % (i, i * 7919) for i in range(10_000)))
    (tmp_path / "a.fa.gz").write_bytes(data[: len(data) // 2])
    source = Fasta(str(tmp_path))
    (unit,) = source.units()
    text = r"a\.fa\.gz: the gzip file ends in the middle after [\d,]{6,} bytes of content, about [45],\d{3} records"
    with pytest.raises(UnitError, match=text):
        source.read(unit)


def test_gzip_members_are_read_one_after_the_other(tmp_path, read):
    (tmp_path / "a.fa.gz").write_bytes(gzip.compress(b">a\nMK") + gzip.compress(b"V\n>b\n") + gzip.compress(b"GG"))
    assert [row["sequence"] for row in read(Fasta(str(tmp_path)))[0]] == ["MKV", "GG"]


def test_a_line_of_fifty_megabytes_is_one_sequence(tmp_path):
    (tmp_path / "a.fa").write_bytes(b">long\n" + b"ACGT" * (50 << 18) + b"\n>short\nM\n")
    source = Fasta(str(tmp_path))
    batches = [source.read(unit) for unit in source.units()]
    assert [batch.num_rows for batch in batches] == [1, 0, 0, 0, 0, 0, 1]
    assert len(batches[0]["sequence"][0].as_py()) == 50 << 20


def test_fasta_holds_no_more_than_a_unit(tmp_path):
    with (tmp_path / "a.fa").open("wb") as file:
        for i in range(64):
            file.write(b">%d\n" % i + b"A" * (1 << 20) + b"\n")
    source = Fasta(str(tmp_path), unit_bytes=2 << 20)
    units = list(source.units())
    source.read(units[0])
    tracemalloc.start()
    source.read(units[10])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_a_sample_is_the_first_mebibyte(tmp_path):
    data = b">r\n" + b"ACGT" * 25 + b"\n"
    (tmp_path / "a.fa").write_bytes(data * 30_000)
    (tmp_path / "b.fa.gz").write_bytes(gzip.compress(data * 30_000))
    source = Fasta(str(tmp_path), unit_bytes=64 << 20)
    plain, packed = source.units()
    batch, taken = source.sample(plain)
    assert (batch.num_rows, taken) == (-(-(1 << 20) // len(data)), 1 << 20)
    batch, taken = source.sample(packed)
    assert batch.num_rows == -(-(1 << 20) // len(data))
    assert 0 < taken < packed.size_bytes


# --- FASTQ -----------------------------------------------------------------------------------------------

qualities = st.characters(min_codepoint=33, max_codepoint=126)


@st.composite
def fastq_files(draw):
    """Records whose qualities like to begin with '@' and '+', and a file of them."""
    rows, end, text = [], draw(ends), ""
    for _ in range(draw(st.integers(0, 8))):
        name, description, bases = draw(words), draw(descriptions), draw(st.text("ACGTN", min_size=1, max_size=12))
        first = draw(st.sampled_from(["@", "+", "", "I"]))
        quality = (first + draw(st.text(qualities, min_size=12, max_size=12)))[: len(bases)]
        rows.append({"id": name, "description": description, "sequence": bases, "quality": quality})
        plus = draw(st.sampled_from(["+", f"+{name}"]))
        text += f"@{name} {description}{end}{bases}{end}{plus}{end}{quality}{end}"
    return rows, (text.removesuffix(end) if draw(st.booleans()) else text).encode()


@few
@given(fastq_files(), sizes)
def test_fastq_gives_all_records_however_it_is_cut(read_bytes, file, size):
    rows, data = file
    assert read_bytes(Fastq, data, ".fq", unit_bytes=size) == (rows, [])


@few
@given(fastq_files())
def test_fastq_gives_all_records_of_a_compressed_file(read_bytes, file):
    rows, data = file
    assert read_bytes(Fastq, data, ".fq.gz") == (rows, [])


@few
@given(
    st.lists(
        st.sampled_from(
            [b"@h", b"@", b"@II", b"ACG", b"AC", b"+", b"+h", b"III", b"", b"II\r", b"\xff\xff\xff", b"x y"]
        ),
        max_size=24,
    ),
    sizes,
)
def test_fastq_gives_the_same_of_any_lines_however_they_are_cut(read_bytes, lines, size):
    data = b"\n".join([b"@first", b"A", b"+", b"I", *lines])
    assert read_bytes(Fastq, data, ".fq", unit_bytes=size) == read_bytes(Fastq, data, ".fq")
    assert read_bytes(Fastq, data, ".fq.gz", size) == read_bytes(Fastq, data, ".fq")


@few
@given(fastq_files(), st.integers(0, 7), st.sampled_from(["short", "no plus"]), sizes)
def test_a_broken_record_costs_itself_only(read_bytes, file, at, how, size):
    rows, data = file
    lines = data.decode().split("\n")
    at = 4 * min(at, len(rows))
    broken = {"short": ["@bad", "ACGT", "+", "!"], "no plus": ["@bad", "ACGT", "IIII"]}[how]
    text = "\n".join([*lines[:at], *broken, *lines[at:]])
    good, bad = read_bytes(Fastq, text.encode(), ".fq", unit_bytes=size)
    assert good == rows
    assert [row["id"] for row, _ in bad] == ["bad"]


@pytest.mark.parametrize("size", [1, 5, 17, 1000])
def test_fastq_with_another_number_of_qualities_is_put_aside(read_bytes, size):
    data = b"@a x\nACGT\n+\nIIII\n@b\nACGT\n+\n@I\n@c\nAC\n+\n@@\n"
    good, bad = read_bytes(Fastq, data, ".fq", unit_bytes=size)
    assert [row["id"] for row in good] == ["a", "c"]
    assert bad == [
        (
            {"id": "b", "description": "", "sequence": "ACGT", "quality": "@I"},
            "the record has 4 bases and 2 qualities; is the file cut short?",
        )
    ]


@pytest.mark.parametrize(
    ("tail", "row", "reason"),
    [
        (b"@b y", ("b", "y", "", ""), "the record has 1 lines, 4 were needed; is the file cut short?"),
        (b"@b\nACGT", ("b", "", "ACGT", ""), "the record has 2 lines, 4 were needed; is the file cut short?"),
        (b"@b\nACGT\n+", ("b", "", "ACGT", "+"), "the record has 3 lines, 4 were needed; is the file cut short?"),
        (b"@b\nACGT\n+\nII", ("b", "", "ACGT", "II"), "the record has 4 bases and 2 qualities; is the file cut short?"),
        (b"@b\n\n+\n\n", ("b", "", "", ""), "the record has no sequence"),
        (b"b\nACGT\n+\nIIII\n", ("b", "", "ACGT", "IIII"), "these lines are no record of '@' header"),
        (b"@b\nAC\xff\n+\nIII\n", ("b", "", "AC\\xff", "III"), "the text is not UTF-8: byte 0xff at place 5 of it"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_broken_fastq_record_is_put_aside(read_bytes, tail, row, reason, size):
    good, bad = read_bytes(Fastq, b"@a\nACGT\n+\nIIII\n" + tail, ".fq", unit_bytes=size)
    assert [found["id"] for found in good] == ["a"]
    ((found, said),) = bad
    assert tuple(found.values()) == row
    assert said.startswith(reason)


def test_the_bad_table_has_the_columns_of_the_good_one(tmp_path):
    (tmp_path / "a.fq").write_bytes(b"@a\nACGT\n+\nII\n")
    source = Fastq(str(tmp_path))
    with pytest.raises(RowErrors) as told:
        source.read(next(source.units()))
    assert told.value.bad.schema.equals(source.schema())
    assert told.value.good.num_rows == 0


def test_fastq_that_is_fasta_is_refused(tmp_path):
    (tmp_path / "a.fq").write_bytes(b">a\nACGT\n")
    source = Fastq(str(tmp_path))
    with pytest.raises(UnitError, match=r"which begins with '@', .*: it looks like FASTA; write use = .fasta."):
        source.read(next(source.units()))
