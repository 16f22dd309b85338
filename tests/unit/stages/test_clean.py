import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.batch import tensor_type
from penstock.errors import RowErrors, SchemaError
from penstock.stages.clean import ALPHABETS, Clean


def cleaned(stage, values, **more):
    batch = pa.table({"sequence": pa.array(values, pa.string()), **more})
    with stage.open() as transform:
        try:
            return transform(batch), None
        except RowErrors as errors:
            return errors.good, errors


def naive(stage, value):
    """The cleaned value, or None when it is refused."""
    if value is None:
        return None
    if stage.normal_form:
        value = unicodedata.normalize(stage.normal_form, value)
    if stage.alphabet in ALPHABETS:
        value = "".join(c for c in value if c not in "-." and not c.isspace()).rstrip("*")
    value = value.strip()
    value = {"keep": str, "upper": str.upper, "lower": str.lower}[stage.case](value)
    allowed = ALPHABETS.get(stage.alphabet, "") + stage.letters
    if len(value) < stage.min_length or (stage.max_length and len(value) > stage.max_length):
        return None
    return None if allowed and any(c not in allowed for c in value) else value


@settings(deadline=None)
@given(
    st.lists(st.none() | st.text("ACGTacgtBN-.* \n\t]^\\x1é", max_size=8), max_size=8),
    st.builds(
        Clean,
        alphabet=st.sampled_from(["", "protein", "dna", "rna"]),
        letters=st.sampled_from(["", "acgt", "]^\\-"]),
        case=st.sampled_from(["keep", "upper", "lower"]),
        min_length=st.integers(0, 3),
        max_length=st.sampled_from([0, 5]),
        normal_form=st.sampled_from(["", "NFC", "NFKC"]),
    ),
)
def test_cleans_as_a_loop_over_letters_does(values, stage):
    expected = [naive(stage, value) for value in values]
    good, errors = cleaned(stage, values)
    assert good["sequence"].to_pylist() == [value for value in expected if value is not None]
    bad = errors.bad["sequence"].to_pylist() if errors else []
    assert bad == [value for value, result in zip(values, expected, strict=True) if result is None]


def test_names_letter_and_position_of_what_it_refuses():
    _, errors = cleaned(Clean(alphabet="dna", max_length=6), ["ACGT", "AC GU", None, "--", "ACGTACGT", "acgt"])
    assert errors.reasons == [
        "sequence has 'U' at position 4, which is no letter of 'dna'",
        "sequence is null",
        "sequence has 0 letters, at least 1 were needed",
        "sequence has 8 letters, at most 6 are allowed",
        "sequence has 'a' at position 1, which is no letter of 'dna'; set case = 'upper'",
    ]
    assert errors.bad["sequence"].to_pylist() == ["AC GU", None, "--", "ACGTACGT", "acgt"]


def test_counts_positions_in_characters_not_bytes():
    _, errors = cleaned(Clean(letters="äöü"), ["äöo"])
    assert errors.reasons == ["sequence has 'o' at position 3, which is no letter of 'äöü'"]


def test_a_stop_inside_a_protein_is_refused_and_one_at_its_end_goes():
    good, errors = cleaned(Clean(alphabet="protein"), ["MKV*", "MK*V"])
    assert good["sequence"].to_pylist() == ["MKV"]
    assert errors.reasons == ["sequence has '*' at position 3, which is no letter of 'protein'"]


def test_text_refuses_what_decoding_left_behind():
    good, errors = cleaned(Clean(alphabet="text"), ["  line one\nline two\t", "caf\ufffd", "nul\x00", "naïve 中文 🙂"])
    assert good["sequence"].to_pylist() == ["line one\nline two", "naïve 中文 🙂"]
    assert [reason.split(",")[0] for reason in errors.reasons] == [
        "sequence has '\ufffd' at position 4",
        "sequence has '\\x00' at position 4",
    ]


def test_drops_instead_of_quarantining_when_told_so():
    good, errors = cleaned(Clean(alphabet="rna", invalid="drop"), ["ACGU", "ACGT", None])
    assert good["sequence"].to_pylist() == ["ACGU"]
    assert errors is None


def test_keeps_the_first_of_rows_that_repeat_after_cleaning():
    stage = Clean(case="upper", unique=("sequence",))
    good, errors = cleaned(stage, ["b", "a", "B ", "c", "A"], id=[1, 2, 3, 4, 5])
    assert good.to_pydict() == {"sequence": ["B", "A", "C"], "id": [1, 2, 4]}
    assert errors is None


def test_tells_rows_apart_by_all_unique_columns_together():
    stage = Clean(unique=("sequence", "id"))
    good, _ = cleaned(stage, ["a", "a", "a", "b"], id=[1, 2, 1, 1])
    assert good.to_pydict() == {"sequence": ["a", "a", "b"], "id": [1, 2, 1]}


def test_quarantine_and_unique_work_together():
    good, errors = cleaned(Clean(letters="a", unique=("sequence",)), ["a", "x", "a", "x"])
    assert good["sequence"].to_pylist() == ["a"]
    assert errors.bad["sequence"].to_pylist() == ["x", "x"]


def test_refuses_columns_that_it_cannot_clean_or_compare():
    with pytest.raises(SchemaError, match="clean needs column 'sequence' as string or large_string; it is int64"):
        Clean().schema(pa.schema({"sequence": pa.int64()}))
    given_schema = pa.schema({"sequence": pa.string(), "x": tensor_type("f4", 2)})
    with pytest.raises(SchemaError, match="unique takes texts and numbers; column 'x' is extension"):
        Clean(unique=("x",)).schema(given_schema)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"min_length": -1}, "must not be negative"),
        ({"min_length": 9, "max_length": 3}, "max_length 3 is below min_length 9: no row fits"),
        ({"alphabet": "text", "letters": "a"}, "'text' takes all letters already"),
    ],
)
def test_refuses_settings_that_contradict(fields, text):
    with pytest.raises(ValueError, match=text):
        Clean(**fields)
