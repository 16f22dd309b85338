import re
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pytest

from penstock.core import plan
from penstock.core.batch import to_numpy
from penstock.core.nouns import Pipeline, Step
from penstock.errors import PlanError, RowErrors, SchemaError, WeightsError
from penstock.models.engine import opened
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


@lru_cache(maxsize=1)
def module(folder):
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()


def hidden_states(folder, rows, layer=-1):
    """One text at a time, without padding, by plain transformers."""
    import torch

    network = module(folder)
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


def test_batches_are_part_of_the_identity_where_their_rows_are_scaled_together(tiny):
    one, other = (Encode(tiny, compute="int8", batch_tokens=each).identity() for each in (64, 512))
    assert one != other
    assert Encode(tiny, batch_tokens=64).identity() == Encode(tiny, batch_tokens=512).identity()


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


@pytest.mark.parametrize("special", ["include", "exclude"])
def test_pooling_has_the_bits_of_sums_over_the_tokens_states(tiny, rows, special):
    """As they were when all tokens' states were copied to numpy first."""
    import torch

    inner = slice(1, -1) if special == "exclude" else slice(None)
    expected = np.empty((len(rows), 32), np.float32)
    lengths = np.array([len(row) for row in rows])
    with opened(tiny, device="cpu") as engine:
        for cut in engine.batches(lengths, 30):
            states = engine.states(np.concatenate([rows[at] for at in cut]), lengths[cut]).split(lengths[cut].tolist())
            for at, own in zip(cut, states, strict=True):
                some = torch.from_numpy(own.numpy()[inner])
                sums = torch.segment_reduce(some, "sum", lengths=torch.tensor([len(some)])).numpy()
                expected[at] = sums[0] / np.float32(len(some))
    found = to_numpy(encoded(Encode(tiny, special=special, batch_tokens=30), rows))
    np.testing.assert_array_equal(found, expected)


def test_first_tokens_have_the_bits_of_their_states(tiny, rows):
    lengths = np.array([len(row) for row in rows])
    with opened(tiny, device="cpu") as engine:
        states = engine.states(np.concatenate(rows), lengths).numpy()
    found = to_numpy(encoded(Encode(tiny, pooling="cls", batch_tokens=100000), rows))
    np.testing.assert_allclose(found, states[np.cumsum(lengths) - lengths], rtol=0, atol=1e-6)


# --- windows ---------------------------------------------------------------------------------------------

LONG = [5, 8, 9, 30, 61, 140, 3]


@pytest.fixture(scope="module")
def long_rows():
    random = np.random.default_rng(1)
    return [[FIRST, *random.integers(5, 31, size=n).tolist(), LAST] for n in LONG]


def stitched(folder, row, window, overlap):
    """Each residue's state in the window where it stands farthest from the nearer end, one window at a time."""
    inner, room = row[1:-1], window - 2
    best = {}
    start = 0
    while True:
        piece = inner[start : start + room]
        [states] = hidden_states(folder, [[FIRST, *piece, LAST]])
        for at in range(len(piece) + 2):
            place = 0 if at == 0 else len(row) - 1 if at == len(piece) + 1 else start + at
            depth = min(at, len(piece) + 1 - at)
            if place not in best or depth > best[place][0]:
                best[place] = (depth, states[at])
        if start + room >= len(inner):
            return np.stack([best[place][1] for place in range(len(row))])
        start += room - overlap


@pytest.mark.parametrize(("window", "overlap"), [(12, 0), (12, 3), (20, 9), (64, 31)])
@pytest.mark.parametrize("special", ["include", "exclude"])
def test_rows_in_windows_are_stitched(tiny, long_rows, window, overlap, special):
    inner = slice(1, -1) if special == "exclude" else slice(None)
    expected = [stitched(tiny, row, window, overlap)[inner] for row in long_rows]
    stage = Encode(tiny, window=window, overlap=overlap, special=special, batch_tokens=70)
    found = encoded(replace(stage, pooling="none"), long_rows).to_pylist()
    for vectors, states in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.array(vectors), states, rtol=0, atol=1e-5)
    means = to_numpy(encoded(stage, long_rows))
    np.testing.assert_allclose(means, np.stack([states.mean(0) for states in expected]), rtol=0, atol=1e-5)
    firsts = to_numpy(encoded(replace(stage, pooling="cls", special="include"), long_rows))
    first = np.stack([stitched(tiny, row, window, overlap)[0] for row in long_rows])
    np.testing.assert_allclose(firsts, first, rtol=0, atol=1e-5)


def test_rows_that_fit_are_the_same_with_windows_and_without(tiny, rows):
    plain, cut = (to_numpy(encoded(Encode(tiny, window=window), rows)) for window in (0, 64))
    np.testing.assert_allclose(plain, cut, rtol=0, atol=1e-5)


def test_windows_need_room_and_a_model_that_takes_them(tiny):
    given = pa.schema({"input_ids": pa.list_(pa.int32())})
    with pytest.raises(SchemaError, match=r"takes 64 tokens; lower window to that or less"):
        Encode(tiny, window=65).schema(given)
    with pytest.raises(ValueError, match="overlap is 8; from 0 to less than the window of 8 was needed"):
        Encode(tiny, window=8, overlap=8)
    message = (
        "a window of 8 tokens holds 2 special ones and 6 shared ones, and no others; raise window or lower overlap"
    )
    with pytest.raises(SchemaError, match=message), Encode(tiny, window=8, overlap=6).open():
        pass


# --- engines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["reference", "auto"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "none"])
def test_engines_agree(tiny, rows, engine, pooling):
    stage = Encode(tiny, pooling=pooling, normalize=True)
    expected, found = (encoded(each, rows).to_pylist() for each in (stage, replace(stage, engine=engine)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.array(one), np.array(other), rtol=0, atol=1e-5)


def test_a_choice_stands_in_the_record_of_each_unit(tiny, rows):
    with Encode(tiny, engine="auto").open() as transform:
        assert re.fullmatch(r"(packed|reference) of packed [\d,]+, reference [\d,]+ tokens/s", transform.told)
    with Encode(tiny).open() as transform:
        assert transform.told == ""


@pytest.mark.parametrize("threads", [1, 3])
def test_a_rows_vector_is_that_of_the_row_alone(tiny, rows, threads):
    together = to_numpy(encoded(Encode(tiny, threads=threads, batch_tokens=30), rows))
    alone = np.concatenate([to_numpy(encoded(Encode(tiny), [row])) for row in rows])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
