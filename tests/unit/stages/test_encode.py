import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from penstock.core import plan
from penstock.core.batch import to_numpy
from penstock.core.nouns import Pipeline, Step
from penstock.errors import PlanError, RowErrors, SchemaError, WeightsError
from penstock.sinks.parquet import Parquet
from penstock.sources.text import Text
from penstock.stages.encode import Encode
from penstock.testing.models import tiny_encoder

FIRST, LAST = 2, 3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(tiny_encoder(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    return [[FIRST, *random.integers(5, 31, size=n).tolist(), LAST] for n in (7, 1, 60, 12, 7, 33, 2)]


def table(rows):
    return pa.table({"input_ids": pa.array(rows, pa.list_(pa.int32()))})


def encoded(stage, rows):
    with stage.open() as transform:
        result = transform(table(rows))
    assert result.schema.equals(stage.schema(table(rows).schema))
    return result["embedding"]


def hidden_states(folder, rows, layer=-1):
    """One text at a time, without padding, by plain transformers."""
    import torch
    from transformers import AutoModel

    network = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.inference_mode():
        return [network(torch.tensor([r]), output_hidden_states=True).hidden_states[layer][0].numpy() for r in rows]


@pytest.mark.parametrize("batch_tokens", [1, 64, 100000])
@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_mean_is_that_of_one_text_at_a_time(tiny, rows, batch_tokens, layer):
    expected = np.stack([states.mean(0) for states in hidden_states(tiny, rows, layer)])
    found = to_numpy(encoded(Encode(tiny, layer=layer, batch_tokens=batch_tokens), rows))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_exclude_leaves_out_the_tokens_around_the_text(tiny, rows):
    expected = np.stack([states[1:-1].mean(0) for states in hidden_states(tiny, rows)])
    np.testing.assert_allclose(to_numpy(encoded(Encode(tiny, special="exclude"), rows)), expected, rtol=0, atol=1e-5)


def test_cls_is_the_first_token_at_length_one(tiny, rows):
    first = np.stack([states[0] for states in hidden_states(tiny, rows)])
    expected = first / np.linalg.norm(first, axis=1, keepdims=True)
    found = to_numpy(encoded(Encode(tiny, pooling="cls", normalize=True), rows))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("special", ["include", "exclude"])
def test_without_pooling_each_token_keeps_its_vector(tiny, rows, special):
    inner = slice(1, -1) if special == "exclude" else slice(None)
    found = encoded(Encode(tiny, pooling="none", special=special, batch_tokens=70), rows).to_pylist()
    for vectors, states in zip(found, hidden_states(tiny, rows), strict=True):
        np.testing.assert_allclose(np.array(vectors), states[inner], rtol=0, atol=1e-5)


def test_float16_is_the_rounded_float32(tiny, rows):
    full, half = (to_numpy(encoded(Encode(tiny, dtype=dtype), rows)) for dtype in ("float32", "float16"))
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, full.astype(np.float16))


def test_quarantines_rows_that_the_model_cannot_take(tiny):
    good = [FIRST, 5, 6, LAST]
    given = [good, None, [], [FIRST, LAST], [FIRST, 99, LAST], [FIRST, -1, LAST], [5] * 65, good, [FIRST, None, LAST]]
    with pytest.raises(RowErrors) as caught:
        encoded(Encode(tiny, special="exclude"), given)
    assert caught.value.bad["input_ids"].to_pylist() == [row for row in given if row != good]
    assert caught.value.reasons == [
        "input_ids has no tokens to pool",
        "input_ids has no tokens to pool",
        "input_ids has no tokens to pool",
        "input_ids has 1 ids outside 0 to 30: it is another model's",
        "input_ids has 1 ids outside 0 to 30: it is another model's",
        "input_ids has 65 tokens, the model takes 64; set max_length = 64 in the tokens step",
        "input_ids has 1 ids outside 0 to 30: it is another model's",
    ]
    expected = to_numpy(encoded(Encode(tiny, special="exclude"), [good, good]))
    np.testing.assert_array_equal(to_numpy(caught.value.good["embedding"]), expected)


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_a_batch_of_bad_rows_alone_has_no_good_ones(tiny, pooling):
    stage = Encode(tiny, pooling=pooling)
    with pytest.raises(RowErrors) as caught:
        encoded(stage, [[], None])
    assert caught.value.good.num_rows == 0
    assert caught.value.good.schema.equals(stage.schema(table([]).schema))


def test_identity_follows_weights_and_config(tiny, tmp_path):
    other = str(tiny_encoder(tmp_path / "other", seed=1))
    left, right = Encode(tiny).identity(), Encode(other).identity()
    assert set(left) == {"config.json", "model.safetensors"}
    assert left["config.json"] == right["config.json"]
    assert left["model.safetensors"] != right["model.safetensors"]
    assert set(Encode(tiny, special="exclude").identity()) == {"config.json", "model.safetensors", "vocab.txt"}


def test_schema_needs_neither_torch_nor_transformers(tiny):
    code = f"""
import sys, pyarrow as pa
from penstock.stages.encode import Encode
stage = Encode({tiny!r})
print(stage.schema(pa.schema({{"input_ids": pa.list_(pa.int32())}})).field("embedding").type.shape)
print(stage.weights_bytes() > 0, stage.licences()[0].commercial, sorted({{"torch", "transformers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[32]\nTrue True []\n"


def test_refuses_what_cannot_work_before_anything_runs(tiny):
    given = pa.schema({"input_ids": pa.list_(pa.int32())})
    with pytest.raises(SchemaError, match="encode needs a column 'input_ids'; there are: sequence"):
        Encode(tiny).schema(pa.schema({"sequence": pa.string()}))
    with pytest.raises(SchemaError, match="has 2 layers; there is no layer 3"):
        Encode(tiny, layer=3).schema(given)
    with pytest.raises(WeightsError, match=r"there is no model '/nowhere/minillm'.*did you mean 'minilm'"):
        Encode("/nowhere/minillm").schema(given)
    with pytest.raises(ValueError, match="batch_tokens must be at least 1"):
        Encode(tiny, batch_tokens=0)


def test_a_model_known_by_name_alone_gets_as_far_as_its_licence():
    stage = Encode("iglm")
    assert stage.schema(pa.schema({"input_ids": pa.list_(pa.int32())})).field("embedding").type.shape == [512]
    assert [licence.commercial for licence in stage.licences()] == [False]
    line = Pipeline("p", Text("in.txt"), Parquet("out"), (Step(stage),))
    with pytest.raises(
        PlanError, match=r"the licence of iglm is JHU .*, which forbids commercial use; choose other we"
    ):
        plan.licences(line)
    assert plan.licences(replace(line, allow_noncommercial=True)) == stage.licences()
    with pytest.raises(WeightsError, match="known, but Penstock does not load it"):
        stage.weights_bytes()
