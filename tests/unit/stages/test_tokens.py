import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import RowErrors, SchemaError, WeightsError
from penstock.models.tokenizer import RESIDUES
from penstock.stages.tokens import Tokens

VOCABULARY = {letter: number for number, letter in enumerate(RESIDUES["dna"], 5)}
UNKNOWN, FIRST, LAST = 1, 2, 3


def tokenized(stage, values):
    with stage.open() as transform:
        return transform(pa.table({"sequence": pa.array(values, pa.string())}))["input_ids"].to_pylist()


@settings(deadline=None)
@given(st.lists(st.text("ACGTNx ", max_size=12).map(lambda text: f"A{text}"), min_size=1, max_size=6))
def test_gives_one_token_for_each_residue_between_the_special_ones(values):
    expected = [[FIRST, *(VOCABULARY.get(c, UNKNOWN) for c in v if c != " "), LAST] for v in values]
    assert tokenized(Tokens("residue:dna"), values) == expected


def test_quarantines_what_a_model_would_turn_into_noise():
    with pytest.raises(RowErrors) as caught:
        tokenized(Tokens("residue:dna", max_length=5), ["ACG", "", None, "acg", "ACGT", "AxN"])
    assert caught.value.good["input_ids"].to_pylist() == [[2, 5, 6, 7, 3], [2, 5, 1, 9, 3]]
    assert caught.value.bad["sequence"].to_pylist() == ["", None, "acg", "ACGT"]
    assert caught.value.reasons == [
        "sequence has no token that 'residue:dna' knows; it begins '': check its case",
        "sequence is null",
        "sequence has no token that 'residue:dna' knows; it begins 'acg': check its case",
        "sequence has 6 tokens, 'residue:dna' takes 5; cut it before, or set too_long = 'truncate'",
    ]


def test_truncates_when_told_so_and_keeps_the_special_tokens():
    assert tokenized(Tokens("residue:dna", max_length=4, too_long="truncate"), ["ACGT"]) == [[2, 5, 6, 3]]


def test_takes_the_length_that_the_model_can_from_its_folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nA\nC")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 4}))
    with pytest.raises(RowErrors, match=r"sequence has 5 tokens, .* takes 4"):
        tokenized(Tokens(str(tmp_path)), ["ACA", "AC"])


def test_promises_lists_of_int32():
    schema = Tokens("residue:rna").schema(pa.schema({"sequence": pa.string()}))
    assert schema.field("input_ids").type == pa.list_(pa.int32())


def test_identity_follows_letters_file_and_length(tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nA")
    before = Tokens(str(tmp_path)).identity()
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nA\nC")
    assert Tokens(str(tmp_path)).identity() != before
    assert Tokens("residue:dna").identity() == {"residue:dna": "ACGTN", "longest": "0"}


def test_says_which_tokenizers_there_are():
    with pytest.raises(WeightsError, match="there are: residue:protein, residue:dna, residue:rna"):
        Tokens("residue:lipid").schema(pa.schema({"sequence": pa.string()}))
    with pytest.raises(SchemaError, match="tokens needs a column 'sequence'"):
        Tokens("residue:dna").schema(pa.schema({"id": pa.string()}))
    with pytest.raises(ValueError, match="max_length is 2; 0 or at least 3 was needed"):
        Tokens("residue:dna", max_length=2)
