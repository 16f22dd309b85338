"""The stage `kmer`: columns, bad rows, settings, planes from disk and S3."""

import numpy as np
import pyarrow as pa
import pytest

from penstock.core.ledger import fingerprint
from penstock.core.nouns import Pipeline, Step
from penstock.core.plugins import adapter
from penstock.errors import RowErrors, SchemaError, WeightsError
from penstock.models import planes
from penstock.models.kmers import Letters
from penstock.sinks.parquet import Parquet
from penstock.sources.fasta import Fasta
from penstock.stages.kmer import Kmer

DNA = "".join(np.random.default_rng(1).choice(list("ACGT"), 2000))


def made(stage, *texts):
    with stage.open() as transform:
        return transform(pa.table({"sequence": pa.array(texts, pa.string())}))


@pytest.fixture
def file(tmp_path):
    uri = str(tmp_path / "planes.npz")
    planes.save(fitted(0), uri)
    return uri


def fitted(seed):
    return planes.fit(Letters.of(pa.chunked_array([[DNA]])), 9, 6, bands=2, seed=seed)


def test_ids_and_positions_leave_out_what_is_ambiguous():
    found = made(Kmer(k=3, positions=True), "ACGTNNTTT", "aaac")
    assert found.schema.field("kmers").type == pa.list_(pa.int64())
    assert found.to_pylist() == [
        {"sequence": "ACGTNNTTT", "kmers": [6, 6, 0], "positions": [0, 1, 6]},
        {"sequence": "aaac", "kmers": [0, 1], "positions": [0, 1]},
    ]


def test_one_strand_alone():
    assert made(Kmer(k=3, strand="forward"), "ACGTNNTTT")["kmers"].to_pylist() == [[6, 27, 63]]


def test_another_column():
    with Kmer(k=2, column="read").open() as transform:
        assert transform(pa.table({"read": ["AC"]}))["kmers"].to_pylist() == [[1]]


def test_spaced_seeds_share_an_id_bit_by_bit():
    one, two, both = (made(Kmer(patterns=p), DNA)["kmers"][0].values for p in (("1101",), ("1011",), ("1101", "1011")))
    assert both.to_pylist() == [low.as_py() + (high.as_py() << 6) for low, high in zip(one, two, strict=True)]


def test_hashes_are_those_of_the_planes(file):
    expected, _ = fitted(0).ids(Letters.of(pa.chunked_array([[DNA]])))
    assert made(Kmer(planes=file), DNA)["kmers"][0].values.to_pylist() == expected.tolist()


def test_rows_without_kmers_are_refused_with_the_reason():
    with pytest.raises(RowErrors) as caught:
        made(Kmer(k=5), "ACGTA", "ACG", None, "MKTAYIAKQR")
    assert caught.value.good["sequence"].to_pylist() == ["ACGTA"]
    assert caught.value.bad.column_names == ["sequence"]
    assert caught.value.reasons == [
        "sequence has 3 letters, a k-mer has 5; set empty = 'keep' to let it pass",
        "sequence is null",
        "sequence has no 5 bases A, C, G, T in a row; it begins 'MKTAYIAKQR': is it DNA?",
    ]


def test_rows_without_kmers_may_be_kept_but_not_nulls():
    assert made(Kmer(k=5, empty="keep"), "ACG", "ACGTA")["kmers"].to_pylist() == [[], [108]]
    with pytest.raises(RowErrors, match="sequence is null"):
        made(Kmer(k=5, empty="keep"), None, "ACGTA")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({}, "exactly one of k, patterns and planes is needed, such as k = 31"),
        ({"k": 5, "planes": "x.npz"}, "exactly one of k, patterns and planes"),
        ({"k": 32}, "k is 32; 1 to 31 was needed"),
        ({"k": -1}, "k is -1; 1 to 31"),
        ({"patterns": ("101", "1111")}, "patterns must be of one length with equally many 1s"),
    ],
)
def test_wrong_settings_are_refused_with_the_reason(settings, fault):
    with pytest.raises(ValueError, match=fault):
        Kmer(**settings)


def test_missing_planes_and_columns_are_told_before_anything_runs(tmp_path):
    schema = pa.schema({"sequence": pa.string()})
    with pytest.raises(WeightsError, match=r"no planes at .*none.npz"):
        Kmer(planes=str(tmp_path / "none.npz")).schema(schema)
    with pytest.raises(SchemaError, match="kmer needs a column 'read'"):
        Kmer(k=3, column="read").schema(schema)


def test_a_file_beside_the_pipeline_is_found_from_there(file, tmp_path):
    stage = adapter(Kmer).validate_python({"planes": "planes.npz"}, context={"folder": str(tmp_path)})
    assert stage.planes == file


def test_other_planes_at_the_same_place_redo_the_work(file, tmp_path):
    def print_():
        return fingerprint(Pipeline("p", Fasta("x"), Parquet("y"), (Step(Kmer(planes=file)),)))

    before = print_()
    (tmp_path / "planes.npz").unlink()
    planes.save(fitted(1), file)
    assert print_() != before
