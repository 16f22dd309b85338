from io import BytesIO

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core import wire
from penstock.core.batch import tensor_column
from penstock.core.work import sift
from penstock.errors import RowErrors, SchemaError, UnitError, WeightsError

BATCH = pa.table(
    {
        "text": ["a", None, "ä€🧬", ""],
        "ids": pa.array([[1, 2], [], None, [3]], pa.list_(pa.int32())),
        "vector": tensor_column(np.arange(8, dtype=np.float32).reshape(4, 2)),
    }
).replace_schema_metadata({"of": "ours"})


def across(transform):
    """*transform* as it is seen from the other side."""
    return lambda batch: wire.heard(BytesIO(wire.answered(transform, wire.received(BytesIO(wire.asked(batch))))))


def raising(error):
    def transform(_):
        raise error

    return transform


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_batches_follow_each_other_in_one_stream(lengths):
    batches = [BATCH.slice(0, length) for length in lengths]
    stream = BytesIO(b"".join(map(wire.asked, batches)))
    for batch in batches:
        found = wire.received(stream)
        assert found.equals(batch)
        assert found.schema.equals(BATCH.schema, check_metadata=True)
    assert wire.received(stream) is None


def test_a_batch_comes_back_with_its_metadata():
    found = across(lambda batch: batch)(BATCH)
    assert found.equals(BATCH)
    assert found.schema.equals(BATCH.schema, check_metadata=True)
    assert across(lambda batch: batch.replace_schema_metadata(None))(BATCH).schema.metadata is None


def test_refused_rows_come_back_as_they_were_with_their_reasons():
    refusal = RowErrors(BATCH.slice(0, 3), BATCH.slice(3), ["no text"])
    with pytest.raises(RowErrors) as caught:
        across(raising(refusal))(BATCH)
    assert caught.value.good.equals(refusal.good)
    assert caught.value.bad.equals(refusal.bad)
    assert caught.value.reasons == ["no text"]


class OfTheirOwn(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [ValueError("it is bad"), SchemaError("no such column"), WeightsError("damaged"), OfTheirOwn("hm"), KeyError("x")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_has_the_same_name_and_text_on_the_other_side(error):
    with pytest.raises(Exception) as caught:
        across(raising(error))(BATCH)
    assert type(caught.value).__name__ == type(error).__name__
    assert isinstance(caught.value, type(error)) or isinstance(error, OfTheirOwn)
    assert str(caught.value) == str(error)


def test_an_error_that_wants_more_than_a_text_keeps_its_name():
    with pytest.raises(Exception, match="invalid start byte") as caught:
        across(lambda _: b"\xff".decode())(BATCH)
    assert type(caught.value).__name__ == "UnicodeDecodeError"


def test_halving_finds_the_bad_row_across_the_wire():
    def transform(batch):
        if None in batch["text"].to_pylist():
            raise ValueError("a text is lacking")
        return batch

    near = sift(transform, BATCH, BATCH.schema, 10)
    far = sift(across(transform), BATCH, BATCH.schema, 10)
    assert far[0].equals(near[0])
    assert [(rows.to_pylist(), reasons) for rows, reasons in far[1]] == [
        (rows.to_pylist(), reasons) for rows, reasons in near[1]
    ]
    assert far[1][0][1] == ("ValueError: a text is lacking",)


def test_what_is_no_table_is_told():
    with pytest.raises(SchemaError, match=r"the stage gave a list; a pyarrow\.Table was needed"):
        across(lambda _: [1])(BATCH)


@pytest.mark.parametrize("cut", [1, 10, 200, -9])
def test_a_stream_that_ends_in_the_middle_is_told(cut):
    with pytest.raises((UnitError, EOFError)):
        wire.received(BytesIO(wire.asked(BATCH)[:cut]))


def test_words_that_are_no_arrow_are_told():
    with pytest.raises(UnitError, match="no Arrow IPC stream could be read"):
        wire.received(BytesIO(b"sequence\nMKT\n" * 100))


def test_an_end_instead_of_an_answer_is_an_end():
    with pytest.raises(EOFError, match="ended without an answer"):
        wire.heard(BytesIO(b""))
    refused = wire.answered(raising(RowErrors(BATCH.slice(0, 3), BATCH.slice(3), ["no text"])), BATCH)
    whole = len(refused) - len(wire.asked(BATCH.slice(3)))
    with pytest.raises(EOFError, match="before it said which rows"):
        wire.heard(BytesIO(refused[:whole]))
    for cut in (9, whole - 9, whole + 9, len(refused) - 9):
        with pytest.raises(EOFError, match="in the middle of an answer"):
            wire.heard(BytesIO(refused[:cut]))
