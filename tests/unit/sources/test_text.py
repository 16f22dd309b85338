import csv
import datetime
import gzip
import io
import json

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.core import spec
from penstock.errors import SchemaError, SpecError, UnitError
from penstock.sources.text import Csv, Jsonl, Text

few = settings(deadline=None, max_examples=40)

sizes = st.one_of(st.integers(5, 20), st.integers(20, 400))
COLUMNS = {"id": "int64", "name": "string", "x": "float64", "ok": "bool"}


def texts(good: list[dict]) -> list[str]:
    return [row["text"] for row in good]


# --- text ------------------------------------------------------------------------------------------------


@few
@given(st.text("ab é>\r\n,\t\u2028", max_size=60), sizes)
def test_text_gives_every_line_however_it_is_cut(read_bytes, text, size):
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
    good, bad = read_bytes(Text, text.encode(), ".txt", unit_bytes=size)
    assert (texts(good), bad) == (lines, [])


@few
@given(st.lists(st.sampled_from([b"a", b"\n", b"\xff", b"\xc3", b"\xa9", b"\xef\xbb\xbf"]), max_size=20), sizes)
def test_text_gives_the_same_of_any_bytes_however_they_are_cut(read_bytes, pieces, size):
    data = b"".join(pieces)
    assert read_bytes(Text, data, ".txt", unit_bytes=size) == read_bytes(Text, data, ".txt.gz", size)


def test_text_keeps_empty_lines_so_that_the_nth_row_is_the_nth_line(read_bytes):
    assert texts(read_bytes(Text, b"\xef\xbb\xbfone\n\n three \r\n\n", ".txt")[0]) == ["one", "", " three ", ""]


def test_lines_that_are_not_utf8_are_put_aside(read_bytes):
    good, bad = read_bytes(Text, b"one\nt\xffo\nthree", ".txt")
    assert texts(good) == ["one", "three"]
    assert bad == [({"text": "t\\xffo"}, "the text is not UTF-8: byte 0xff at place 1 of it")]


# --- JSON Lines ------------------------------------------------------------------------------------------

rows_of_columns = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
            "name": st.one_of(st.none(), st.text(max_size=6)),
            "x": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
            "ok": st.one_of(st.none(), st.booleans()),
        }
    ),
    max_size=8,
)


@few
@given(rows_of_columns, sizes, st.sampled_from(["\n", "\r\n", "\n\n"]), st.booleans())
def test_jsonl_gives_every_object_however_it_is_cut(read_bytes, rows, size, end, ascii_only):
    data = "".join(json.dumps({**row, "more": [1]}, ensure_ascii=ascii_only) + end for row in rows)
    assert read_bytes(Jsonl, data.encode(), ".jsonl", columns=COLUMNS, unit_bytes=size) == (rows, [])


@few
@given(
    st.lists(
        st.sampled_from(
            [
                b'{"id":1}',
                b'{"id":2} {"id":3}',
                b'{"id":',
                b"4}",
                b"}",
                b"{",
                b"",
                b" ",
                b"[1]",
                b"5",
                b'{"id":"x"}',
                b'{"id":1.5}',
                b'{"name":"\xff"}',
                b'{"id":6},',
                b'{"name":"a',
                b'b"}',
                b'{"id":7}\r',
                b"{}",
                b"\xff",
            ]
        ),
        max_size=12,
    ),
    sizes,
)
def test_jsonl_gives_the_same_of_any_lines_however_they_are_cut(read_bytes, lines, size):
    data = b"\n".join(lines)
    found = read_bytes(Jsonl, data, ".jsonl", columns=COLUMNS, unit_bytes=size)
    assert found == read_bytes(Jsonl, data, ".jsonl", columns=COLUMNS)
    assert len(found[0]) + len(found[1]) == sum(line not in (b"", b"\r") for line in lines)


def test_a_broken_json_line_is_put_aside_with_its_place(read_bytes):
    data = b'{"id": 1}\n{"id": "two"}\n{"id": 3\n{"id": 4} {"id": 5}\nsix\n{"id": 7}\n'
    good, bad = read_bytes(Jsonl, data, ".jsonl", columns={"id": "int64"})
    assert good == [{"id": 1}, {"id": 7}]
    assert [row["line"] for row, _ in bad] == ['{"id": "two"}', '{"id": 3', '{"id": 4} {"id": 5}', "six"]
    assert [reason[:24] for _, reason in bad] == [
        "the line at byte 10: JSO",
        "the line at byte 24: one",
        "the line at byte 33: the",
        "the line at byte 53: one",
    ]
    assert bad[0][1] == "the line at byte 10: JSON parse error: Column(/id) changed from number to string in row 0"
    assert bad[1][1] == "the line at byte 24: one JSON object on one line, {...}, was needed"
    assert bad[2][1] == "the line at byte 33: there is more than one JSON object on the line"


def test_jsonl_reads_lists_and_times(read_bytes):
    columns = {"tags": "list<string>", "at": "timestamp"}
    data = b'{"tags": ["a", "b"], "at": "2024-05-06T07:08:09"}\n{"tags": []}\n'
    assert read_bytes(Jsonl, data, ".jsonl", columns=columns)[0] == [
        {"tags": ["a", "b"], "at": datetime.datetime(2024, 5, 6, 7, 8, 9)},
        {"tags": [], "at": None},
    ]


def test_wrong_columns_are_told_before_each_line_is_tried(read_bytes):
    data = b"".join(b'{"id": "%d"}\n' % i for i in range(3_000))
    said = (
        r"file\.jsonl: more than 1,000 lines near one another fail, the first of them at byte 0: JSON parse error: .*"
    )
    with pytest.raises(UnitError, match=said + r"""row 0: '{"id": "0"}'; mend 'columns', or lower unit_bytes"""):
        read_bytes(Jsonl, data, ".jsonl", columns={"id": "int64"})


# --- CSV -------------------------------------------------------------------------------------------------


@few
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
            st.text(st.characters(blacklist_characters="\r\n\0", blacklist_categories=["Cs"]), max_size=6),
            st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
            st.one_of(st.none(), st.booleans()),
        ),
        max_size=8,
    ),
    sizes,
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([",", ";", "\t", "|"]),
)
def test_csv_gives_every_row_however_it_is_cut(read_bytes, rows, size, end, delimiter):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end)
    writer.writerows([["x", "more", "name", "id", "ok"], *([x, "?", name, id_, ok] for id_, name, x, ok in rows)])
    found = read_bytes(Csv, text.getvalue().encode(), ".csv", columns=COLUMNS, delimiter=delimiter, unit_bytes=size)
    assert found == ([dict(zip(COLUMNS, row, strict=True)) for row in rows], [])


@few
@given(
    st.lists(
        st.sampled_from(
            [
                b"1,a",
                b"2,b",
                b'3,"c"',
                b'4,"d,e"',
                b'5,"f""g"',
                b"6",
                b"7,h,i",
                b'8,j"k',
                b'9,"l"m',
                b"",
                b" ",
                b"x,n",
                b"10,\xff",
                b"11,o\rp",
                b"12,q\r",
                b'13,r"s"',
                b"14,",
                b",",
                b'"15",t',
                b"\r",
                b"\xff,u",
            ]
        ),
        max_size=14,
    ),
    sizes,
)
@example([b"1,a", b""], 1)
def test_csv_gives_the_same_of_any_lines_however_they_are_cut(read_bytes, lines, size):
    data = b"\n".join([b"id,name", *lines])
    columns = {"name": "string", "id": "int64"}
    found = read_bytes(Csv, data, ".csv", columns=columns, unit_bytes=size)
    assert found == read_bytes(Csv, data, ".csv", columns=columns)
    assert len(found[0]) + len(found[1]) == sum(line not in (b"", b"\r") for line in lines)


def test_a_broken_csv_line_is_put_aside_with_its_place(read_bytes):
    data = b'\xef\xbb\xbfid,name\r\n1,a\r\ntwo,b\r\n3\r\n4,c,d\r\n5,e"f\r\n6,\xff\r\n7,g\r\n'
    good, bad = read_bytes(Csv, data, ".csv", columns={"id": "int64", "name": "string"})
    assert good == [{"id": 1, "name": "a"}, {"id": 7, "name": "g"}]
    assert [row["line"] for row, _ in bad] == ["two,b", "3", "4,c,d", '5,e"f', "6,\\xff"]
    starts = [data.index(start) for start in (b"two", b"3\r", b"4,", b"5,", b"6,")]
    assert [reason.split(": ")[0] for _, reason in bad] == [f"the line at byte {start}" for start in starts]
    assert [reason.split(": ", 1)[1] for _, reason in bad] == [
        "In CSV column #0: Row #1: CSV conversion error to int64: invalid value 'two'",
        "CSV parse error: Row #1: Expected 2 columns, got 1: 3",
        "CSV parse error: Row #1: Expected 2 columns, got 3: 4,c,d",
        "a quote stands inside a value that is not quoted",
        "In CSV column #1: Row #1: CSV conversion error to string: invalid UTF8 data",
    ]


@pytest.mark.parametrize("text", ['1,"a\nb"\n2,c\n', '2,c\n1,x"y,"z\n', '2,c\n1,"a""\n3,d\n'])
def test_a_quoted_value_that_goes_over_a_line_end_is_refused(tmp_path, text):
    (tmp_path / "a.csv").write_text("id,name\n" + text)
    source = Csv(str(tmp_path), {"name": "string"})
    place = 8 + text.index("1,")
    told = rf"a\.csv: the line at byte {place} ends inside a quoted value, but csv needs each row on one line; take the"
    with pytest.raises(UnitError, match=told):
        source.read(next(source.units()))


def test_each_csv_file_names_its_columns_itself(tmp_path, read):
    (tmp_path / "a.csv").write_text("id,name\n1,a\n")
    (tmp_path / "b.csv").write_text("name,x,id\nb,?,2\n")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"id,name\n3,c"))
    (tmp_path / "d.csv").write_text("")
    (tmp_path / "e.csv").write_text("name,id")
    source = Csv(str(tmp_path), {"id": "int64", "name": "string"}, unit_bytes=3)
    assert [(row["id"], row["name"]) for row in read(source)[0]] == [(1, "a"), (2, "b"), (3, "c")]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("id,Name", r"column 'name' stands 0 times in the first line, once was needed; there are: id, Name"),
        ("name,id,name", r"column 'name' stands 2 times in the first line, once was needed; there are: name, id, name"),
        ("", r"column 'id' stands 0 times in the first line, once was needed; there are: none"),
    ],
)
def test_a_csv_file_without_a_column_is_refused(tmp_path, header, said):
    (tmp_path / "a.csv").write_text(f"{header}\n1,a\n")
    source = Csv(str(tmp_path), {"id": "int64", "name": "string"}, unit_bytes=2)
    for unit in source.units():
        with pytest.raises(UnitError, match=said):
            source.read(unit)


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n"])
def test_a_delimiter_is_one_character(delimiter):
    with pytest.raises(SpecError, match=r"delimiter = .*: one character, no quote and no line end, was needed"):
        Csv("a.csv", {"id": "int64"}, delimiter)


# --- columns ---------------------------------------------------------------------------------------------


def test_csv_without_columns_is_told_some(tmp_path):
    text = "id,long name,x,day,at,none,ok\n1,a,1.5,2024-01-02,2024-01-02 03:04:05,,true\n"
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(SchemaError) as told:
        Csv(str(tmp_path)).schema()
    line = (
        'columns = { id = "int64", "long name" = "string", x = "float64", day = "date32", at = "timestamp", '
        'none = "string", ok = "bool" }'
    )
    start = (
        f"the csv source needs the names and types of the columns to read from {tmp_path}; the first file would go with"
    )
    assert str(told.value) == f"{start}\n  {line}"
    proposed = spec.loads(
        f'source.use = "csv"\nsource.uri = "{tmp_path}"\nsource.{line}\n[sink]\nuse="parquet"\nuri="o"'
    )
    assert proposed.pipelines[0].source.read(next(Csv(str(tmp_path)).units())).num_rows == 1


def test_jsonl_without_columns_is_told_some(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1, "tags": ["a"], "deep": {"x": 1}, "at": "2024-01-02T03:04:05Z"}\n')
    with pytest.raises(SchemaError, match=r'columns = \{ id = "int64", tags = "list<string>", at = "timestamp" \}'):
        Jsonl(str(tmp_path)).schema()


def test_nothing_is_proposed_from_a_broken_file(tmp_path):
    (tmp_path / "a.jsonl").write_text("x\n")
    with pytest.raises(SchemaError, match=r'write columns = \{ name = "string" \} \(none can be proposed: JSON parse'):
        Jsonl(str(tmp_path)).schema()
    with pytest.raises(
        SchemaError, match=r"none can be proposed: cannot read .*: there is no file that ends with \.csv"
    ):
        Csv(str(tmp_path)).schema()


@pytest.mark.parametrize(
    ("kind", "columns", "said"),
    [
        (Jsonl, {"a": "text"}, "there is no type 'text'; write an Arrow type such as string"),
        (Jsonl, {"a": "float32[3]"}, "text files hold no tensors, as column 'a' is; read it as list<float32>"),
        (Csv, {"a": "list<string>"}, "csv cannot hold column 'a' of type list<.*>; read it as string"),
    ],
)
def test_a_type_that_cannot_be_read_is_refused(kind, columns, said):
    with pytest.raises(SchemaError, match=said):
        kind("a", columns).schema()


def test_columns_come_in_the_order_asked_for(read_bytes):
    columns = {"b": "string", "a": "float32"}
    assert Jsonl("x", columns).schema() == pa.schema([("b", pa.string()), ("a", pa.float32())])
    for kind, data in ((Jsonl, b'{"a": 1, "b": "x"}'), (Csv, b"a,b\n1,x")):
        assert list(read_bytes(kind, data, ".x", columns=columns)[0][0]) == ["b", "a"]


def test_an_empty_csv_number_is_null_and_an_empty_text_is_empty(read_bytes):
    columns = {"id": "int64", "name": "string"}
    assert read_bytes(Csv, b"id,name\n,\n1,NA\n", ".csv", columns=columns)[0] == [
        {"id": None, "name": ""},
        {"id": 1, "name": "NA"},
    ]
