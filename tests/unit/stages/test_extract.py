import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import RowErrors, SchemaError
from penstock.stages.extract import Extract

GENE = r"GN=(?P<gene>(?P<family>IG[HKL]V)\S*)"


def extracted(stage, values):
    with stage.open() as transform:
        return transform(pa.table({"description": pa.array(values, pa.string())}))


def test_makes_columns_of_nested_groups():
    found = extracted(Extract(GENE), ["P1 OS=Homo sapiens GN=IGHV1-2 PE=1", "GN=IGLV9"])
    assert found.select(["gene", "family"]).to_pydict() == {"gene": ["IGHV1-2", "IGLV9"], "family": ["IGHV", "IGLV"]}


@settings(deadline=None)
@given(st.lists(st.none() | st.text("ab=1 \n", max_size=10), max_size=8))
def test_finds_what_the_standard_library_finds(values):
    pattern = r"(?P<key>a+)=(?P<value>\d)?"
    expected = [re.search(pattern, value) if value is not None else None for value in values]
    found = extracted(Extract(pattern, missing="keep"), values)
    assert found["key"].to_pylist() == [match["key"] if match else "" for match in expected]
    assert found["value"].to_pylist() == [(match["value"] or "") if match else "" for match in expected]


def test_quarantines_rows_without_a_match_as_they_were():
    with pytest.raises(RowErrors) as caught:
        extracted(Extract(GENE), ["GN=IGHV1", None, "GN=TP53", "x" * 100])
    assert caught.value.good["gene"].to_pylist() == ["IGHV1"]
    assert caught.value.bad.column_names == ["description"]
    assert caught.value.reasons == [
        "description is null",
        f"description does not match {GENE!r}; it is 'GN=TP53'",
        f"description does not match {GENE!r}; it is '{'x' * 80}...'",
    ]


def test_drops_rows_without_a_match_when_told_so():
    assert extracted(Extract(GENE, missing="drop"), ["GN=IGHV1", "GN=TP53"])["gene"].to_pylist() == ["IGHV1"]


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("GN=", "has no group; write"),
        ("(GN)=", "unnamed groups"),
        ("(?P<gene>", "missing \\)"),
        ("(?P<gene>a)(?=b)", "invalid perl operator.*the syntax is RE2's"),
    ],
)
def test_refuses_a_pattern_that_cannot_be_used(pattern, text):
    with pytest.raises(ValueError, match=text):
        Extract(pattern)


def test_wants_a_column_of_texts():
    with pytest.raises(SchemaError, match="extract needs a column 'description'; there are: id"):
        Extract(GENE).schema(pa.schema({"id": pa.int64()}))
