import io
import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.batch import tensor_column, tensor_type, to_bytes
from penstock.serving.chain import MARK, Refused
from penstock.serving.codec import ARROW, Answer, from_arrow, from_json, row_schema, to_arrow, to_json
from penstock.serving.request import RequestError

GIVEN = pa.schema(
    [
        ("text", pa.string()),
        ("number", pa.int64()),
        ("ids", pa.list_(pa.int32())),
        ("grid", tensor_type(np.float32, 2, 3)),
        ("raw", pa.binary()),
    ]
)
GRID = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def body(*rows):
    return json.dumps({"rows": rows}).encode()


FLOATS = st.floats(width=32, allow_nan=False)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
            "number": st.none() | st.integers(-(2**63), 2**63 - 1),
            "ids": st.none() | st.lists(st.integers(-(2**31), 2**31 - 1)),
            "grid": st.lists(st.lists(FLOATS, min_size=3, max_size=3), min_size=2, max_size=2),
        }
    ),
    min_size=1,
)  # fmt: skip


@given(ROWS)
def test_rows_come_back_as_they_were_sent_in_both_forms(rows):
    finite = [{**row, "grid": [[x if math.isfinite(x) else 0.0 for x in line] for line in row["grid"]]} for row in rows]
    table, bad = from_json(body(*finite), GIVEN)
    assert bad == ()
    plain = table.drop_columns([MARK])
    answer = Answer(plain, tuple(table[MARK].to_pylist()), ())
    assert json.loads(to_json(answer)) == {"rows": finite, "positions": list(range(len(rows))), "errors": []}
    again = from_arrow(to_arrow(answer), GIVEN)
    assert again.equals(table)


def test_a_value_of_another_type_costs_its_row_alone():
    table, bad = from_json(
        body(
            {"number": 1, "grid": GRID}, {"number": "2", "grid": GRID}, {"number": 3, "grid": [[1, 2]]}, {"number": 4}
        ),
        GIVEN,
    )
    assert table["number"].to_pylist() == [1, 4]
    assert table[MARK].to_pylist() == [0, 3]
    assert bad == (
        Refused(1, "request", 'number is "2"; int64 was needed'),
        Refused(2, "request", f"grid is [[1, 2]]; {GIVEN.field('grid').type} was needed"),
    )


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"", "the body is not JSON: Expecting value"),
        (b"\xff\xfe{", "the body is not JSON"),
        (b'{"rows": [{"number": NaN}]}', "NaN is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"[1]", r'the body must be \{"rows": \[\{"column": value'),
        (b'{"rows": {}}', "the body must be"),
        (b'{"rows": [], "more": 1}', "the body must be"),
        (b'{"rows": [7]}', "row 0 is 7; an object was needed"),
        (b'{"rows": [{"txt": "a"}]}', "there is no column 'txt'; did you mean 'text'?"),
        (b'{"rows": [{"zzz": "a"}]}', "there is no column 'zzz'; there may be: text, number, ids, grid, raw"),
        (b'{"rows": [{}]}', "the rows have no columns"),
        (b'{"rows": []}', "the rows have no columns"),
    ],
)
def test_json_that_cannot_be_understood_is_refused_with_a_reason(sent, text):
    with pytest.raises(RequestError, match=text) as caught:
        from_json(sent, GIVEN)
    assert caught.value.status == 422


def test_lone_surrogates_and_numbers_without_end_cost_their_rows():
    sent = b'{"rows": [{"text": "\\ud800", "number": 1}, {"text": "a", "number": ' + b"9" * 400 + b"}]}"
    table, bad = from_json(sent, GIVEN)
    assert table.num_rows == 0
    assert [one.row for one in bad] == [0, 1]
    assert json.loads(to_json(Answer(table.drop_columns([MARK]), (), bad)))["errors"][0]["row"] == 0


def test_more_rows_than_are_taken_are_refused_before_they_are_looked_at():
    table = pa.table({"number": list(range(11))})
    for read, sent in ((from_json, body(*table.to_pylist())), (from_arrow, bytes(to_bytes(table)))):
        with pytest.raises(RequestError, match="the request has 11 rows, at most 10 are taken") as caught:
            read(sent, GIVEN, 10)
        assert caught.value.status == 413


def test_json_has_null_where_it_has_no_number():
    answer = Answer(pa.table({"x": [1.5, math.nan, math.inf]}), (0, 1, 2), ())
    assert [row["x"] for row in json.loads(to_json(answer))["rows"]] == [1.5, None, None]


def test_bytes_travel_as_base64():
    table, _ = from_json(body({"raw": "AP8="}), GIVEN)
    assert table["raw"].to_pylist() == [b"\x00\xff"]
    assert json.loads(to_json(Answer(table.select(["raw"]), (0,), ())))["rows"] == [{"raw": "AP8="}]


def test_float32_survives_json_bit_for_bit():
    values = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    answer = Answer(pa.table({"v": tensor_column(values)}), tuple(range(50)), ())
    found = np.array([row["v"] for row in json.loads(to_json(answer))["rows"]], np.float32)
    assert (found == values).all()


def test_arrow_takes_types_of_the_same_family_and_no_others():
    near = pa.table({"text": pa.array(["a"], pa.large_string()), "number": pa.array([7], pa.int16())})
    assert from_arrow(bytes(to_bytes(near)), GIVEN).schema.field("text").type == pa.string()
    flat = pa.table({"grid": pa.array([[1.0] * 6], pa.list_(pa.float32(), 6))})
    assert from_arrow(bytes(to_bytes(flat)), GIVEN)["grid"].type == GIVEN.field("grid").type
    far = pa.table({"text": pa.array(["a"]).dictionary_encode()})
    with pytest.raises(RequestError, match=r"column 'text' is dictionary<.*string was needed"):
        from_arrow(bytes(to_bytes(far)), GIVEN)
    with pytest.raises(RequestError, match="column 'number' cannot be taken as int64"):
        from_arrow(bytes(to_bytes(pa.table({"number": [1.5]}))), GIVEN)
    with pytest.raises(RequestError, match="column 'text' is given twice"):
        from_arrow(bytes(to_bytes(pa.table([["a"], ["b"]], ["text", "text"]))), GIVEN)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("column", [["a" * 1000] * 100, pa.array(["a"] * 1000).dictionary_encode()])
def test_a_compressed_stream_is_refused_before_it_unfolds(codec, column):
    sink, table = io.BytesIO(), pa.table({"text": column})
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table)
    with pytest.raises(RequestError, match="the Arrow stream is compressed"):
        from_arrow(sink.getvalue(), GIVEN)


@given(st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 400))
def test_a_damaged_stream_is_refused_or_read_and_never_kills_the_process(at, value, cut):
    table = pa.table({"text": ["abc", "d"], "number": [1, 2], "ids": pa.array([[1], [2, 3]], pa.list_(pa.int32()))})
    sent = bytearray(to_bytes(table))
    sent[at % len(sent)] = value
    try:
        rows = from_arrow(bytes(sent[: len(sent) - cut]), GIVEN, 100).num_rows
    except RequestError as error:
        rows = {413: 101, 422: 0}[error.status]
    assert rows <= 101


def test_answers_in_arrow_tell_positions_and_errors_in_the_schemas_metadata():
    answer = Answer(pa.table({"number": [5]}), (1,), (Refused(0, "1-clean", "is null"),))
    metadata = pa.ipc.open_stream(to_arrow(answer)).read_all().schema.metadata
    assert json.loads(metadata[b"penstock.positions"]) == [1]
    assert json.loads(metadata[b"penstock.errors"]) == [{"row": 0, "step": "1-clean", "reason": "is null"}]


def test_the_schema_of_a_row_has_the_shape_of_tensors():
    found = row_schema(GIVEN, ["text"])
    assert found["required"] == ["text"]
    assert found["properties"]["ids"] == {"type": "array", "items": {"type": "integer"}}
    inner = {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}
    assert found["properties"]["grid"] == {"type": "array", "items": inner, "minItems": 2, "maxItems": 2}
    assert ARROW == "application/vnd.apache.arrow.stream"
