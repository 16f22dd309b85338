"""Seeds to fields in a pipeline."""

import numpy as np
import pyarrow as pa
import pytest

from penstock.core.batch import tensor_type, to_numpy
from penstock.core.dataset import promised
from penstock.core.ledger import fingerprint
from penstock.core.nouns import Pipeline, Step
from penstock.errors import RowErrors, SchemaError, WeightsError
from penstock.sinks.parquet import Parquet
from penstock.sources.text import Text
from penstock.stages.generate import Generate
from penstock.testing.models import tiny_generator


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_generator(tmp_path_factory.mktemp("model")))


def made(stage, batch):
    with stage.open() as transform:
        return transform(batch)


def test_without_a_viscosity_the_middle_is_taken_and_told(model):
    found = made(Generate(model, device="cpu"), pa.table({"seed": [1, 2]}))
    assert found.column_names == ["seed", "viscosity", "velocity"]
    np.testing.assert_allclose(to_numpy(found["viscosity"]), 0.02)
    asked = made(Generate(model, viscosity=0.03, device="cpu"), pa.table({"seed": [1]}))
    given = made(Generate(model, device="cpu"), pa.table({"seed": [1], "viscosity": [0.03]}))
    assert asked["velocity"].combine_chunks().equals(given["velocity"].combine_chunks())


def test_a_velocity_that_is_there_is_replaced(model):
    batch = made(Generate(model, device="cpu"), pa.table({"seed": [1]}))
    again = made(Generate(model, viscosity=0.03, device="cpu"), batch)
    assert again.column_names == batch.column_names
    assert again["velocity"].combine_chunks().equals(batch["velocity"].combine_chunks())


def test_rows_that_the_model_has_not_learned_are_quarantined_as_they_were(model):
    batch = pa.table({"seed": [1, 2, 3], "viscosity": [0.02, 0.5, 0.001]})
    with pytest.raises(RowErrors) as refused:
        made(Generate(model, device="cpu"), batch)
    assert refused.value.bad.equals(batch.slice(1))
    assert refused.value.reasons[0] == "the viscosity 0.5 lies outside 0.01 to 0.04, from which the model has learned"
    assert refused.value.good["seed"].to_pylist() == [1]


def test_all_rows_may_be_bad(model):
    with pytest.raises(RowErrors) as refused:
        made(Generate(model, viscosity=7.0, device="cpu"), pa.table({"seed": [1, 2]}))
    assert refused.value.good.num_rows == 0
    assert refused.value.good.schema.field("velocity").type == tensor_type("float32", 2, 32, 32)
    assert refused.value.bad.column_names == ["seed"]


def test_other_weights_are_other_work_and_another_place_is_not(model, tmp_path):
    def print_of(uri):
        return fingerprint(Pipeline("line", Text("in.txt"), Parquet("out"), (Step(Generate(uri)),)))

    same, other = str(tiny_generator(tmp_path / "same")), str(tiny_generator(tmp_path / "other", seed=4))
    assert print_of(same) == print_of(model) != print_of(other)


def test_what_a_training_promises_is_planned_with(tmp_path):
    uri = str(tmp_path / "later")
    with promised({uri: pa.schema([("velocity", tensor_type("float32", 2, 64, 64))])}):
        stage = Generate(uri)
        found = stage.schema(pa.schema([("seed", pa.int64())]))
        assert (stage.weights_bytes(), stage.licences()) == (0, ())
    assert found.field("velocity").type == tensor_type("float32", 2, 64, 64)


def test_the_licence_is_the_cards(model):
    (licence,) = Generate(model).licences()
    assert (licence.name, licence.commercial) == ("apache-2.0", True)


def test_what_is_wrong_is_said(model, tmp_path):
    with pytest.raises(SchemaError, match="generate needs a column 'seed'; there are: text"):
        Generate(model).schema(pa.schema([("text", pa.string())]))
    with pytest.raises(SchemaError, match="generate needs column 'viscosity' as double; it is string"):
        Generate(model).schema(pa.schema([("seed", pa.int64()), ("viscosity", pa.string())]))
    with pytest.raises(WeightsError, match=r"a model folder with config.json and model.safetensors was needed"):
        Generate(str(tmp_path)).schema(pa.schema([("seed", pa.int64())]))
    with pytest.raises(ValueError, match=r"viscosity is -1\.0; 0 or more was needed"):
        Generate(model, viscosity=-1.0)
