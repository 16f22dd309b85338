"""Packed encoders against the modules of transformers, one row at a time, on small models with random weights."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import PlanError, WeightsError
from penstock.models import engine, packed, transformer
from penstock.models.engine import Engine
from penstock.models.packed import FAMILIES, batches, loaded, unknown

SIZES = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 70,
}
DISTIL = {"vocab_size": 40, "dim": 24, "n_layers": 3, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 70}
PADDED = SIZES | {"pad_token_id": 1}
ESM = PADDED | {"mask_token_id": 39, "position_embedding_type": "absolute"}
ROTARY = ESM | {"position_embedding_type": "rotary"}
DROPOUT = {"token_dropout": True, "emb_layer_norm_before": True}
MODELS = {
    "bert": ("BertModel", SIZES),
    "bert-relu": ("BertModel", SIZES | {"hidden_act": "relu", "layer_norm_eps": 1e-5}),
    "camembert": ("CamembertModel", PADDED),
    "distilbert": ("DistilBertModel", DISTIL),
    "electra": ("ElectraModel", SIZES | {"embedding_size": 24}),
    "esm": ("EsmModel", ESM),
    "esm-dropout": ("EsmModel", ESM | DROPOUT),
    "esm-rotary": ("EsmModel", ROTARY),
    "esm-rotary-dropout": ("EsmModel", ROTARY | DROPOUT),
    "roberta": ("RobertaModel", PADDED),
    "xlm-roberta": ("XLMRobertaModel", PADDED),
}


def made(folder, name, **more):
    """A small model, saved; every weight is random, so that none is a plain 0 or 1."""
    import transformers

    kind, sizes = MODELS[name]
    model = getattr(transformers, kind)
    torch.manual_seed(1)
    network = model(model.config_class(**sizes, **more)).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(std=0.3)
    network.save_pretrained(folder)
    return network


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Each model once: its folder and its network."""
    found = {}

    def model(name):
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            found[name] = (str(folder), made(folder, name))
        return found[name]

    return model


def rows(*lengths, seed=0):
    """Random ids, with a mask and a padding token here and there."""
    random = np.random.default_rng(seed)
    found = [random.integers(2, 39, size=length) for length in lengths]
    for ids in found:
        if len(ids) > 6:
            ids[[2, 5]] = 39, 1
    return found


ROWS = rows(66, 17, 17, 17, 5, 2, 2, 1)


def theirs(network, some, layer=-1):
    with torch.inference_mode():
        return [
            network(
                torch.from_numpy(ids)[None],
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                output_hidden_states=True,
            ).hidden_states[layer][0]
            for ids in some
        ]


def ours(network, some):
    lengths = np.array([len(ids) for ids in some])
    return network.states(np.concatenate(some), lengths).split(lengths.tolist())


def assert_close(found, expected, tolerance=1e-5):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_every_family_has_a_model_here():
    assert {name.split("-")[0] if name != "xlm-roberta" else name for name in MODELS} == set(FAMILIES)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layer", [-1, 0, 1, 3, -2])
def test_states_are_those_of_the_module_on_one_row_at_a_time(models, name, layer):
    folder, network = models(name)
    assert unknown(folder) == ""
    assert_close(ours(loaded(folder, layer), ROWS), theirs(network, ROWS, layer))


@pytest.mark.parametrize("name", ["bert", "esm-rotary"])
def test_mapped_weights_give_the_states_of_packed_ones(models, name, monkeypatch):
    folder, _ = models(name)
    expected = ours(loaded(folder), ROWS)
    monkeypatch.setattr(packed, "_PRIVATE_BYTES", 0)
    network = loaded(folder)
    assert len(network.layers[0].heads) == 3
    assert_close(ours(network, ROWS), expected)


def test_large_weights_stay_in_the_pages_of_their_file(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    made(tmp_path, "bert")
    monkeypatch.setattr(packed, "_PRIVATE_BYTES", 0)
    weight = loaded(str(tmp_path)).layers[0].up.weight
    name = "encoder.layer.0.intermediate.dense.weight"
    assert torch.equal(weight, load_file(tmp_path / "model.safetensors")[name])
    assert str(tmp_path / "model.safetensors") in mapped_at(weight.data_ptr())


def mapped_at(address):
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, stop = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= address < stop:
            return line
    return "nothing"


HOLDS_A_MODEL = """
import re, sys
import numpy as np
from pathlib import Path
from penstock.models import packed

packed._PRIVATE_BYTES = int(sys.argv[2])
network = packed.loaded(sys.argv[1])
network.states(np.arange(2, 34), np.array([20, 12])).sum().item()
print("ready", flush=True)
input()  # all of them hold the weights
whole = Path("/proc/self/smaps").read_text()
entries = re.findall(r"model\\.safetensors\\n.*?Rss: +(\\d+) kB\\nPss: +(\\d+) kB", whole, re.DOTALL)
rollup = Path("/proc/self/smaps_rollup").read_text()
[private] = re.findall(r"Private_Dirty: +(\\d+) kB", rollup)
print(sum(int(rss) for rss, _ in entries), sum(int(pss) for _, pss in entries), private, flush=True)
input()  # until the others have looked
"""


def kilobytes_held(folder, private_bytes, processes):
    """Of each process that holds the model: resident and proportional size of its file, and memory of its own."""
    call = [sys.executable, "-c", HOLDS_A_MODEL, str(folder), str(private_bytes)]
    running = [subprocess.Popen(call, stdin=PIPE, stdout=PIPE, text=True) for _ in range(processes)]
    for process in running:
        assert process.stdout.readline() == "ready\n"
    found = []
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
        found.append([int(number) for number in process.stdout.readline().split()])
    for process in running:
        process.communicate("\n")
    return found


def test_processes_share_large_weights(tmp_path):
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 4}
    BertModel(BertConfig(**SIZES | sizes), add_pooling_layer=False).save_pretrained(tmp_path)
    file = (tmp_path / "model.safetensors").stat().st_size / 1024
    shared, [packed_alone] = kilobytes_held(tmp_path, 0, 2), kilobytes_held(tmp_path, 1 << 30, 1)
    for resident, proportional, private in shared:
        assert resident > 0.9 * file
        assert proportional < 0.6 * file
        assert packed_alone[2] - private > 0.7 * file  # nor did oneDNN keep a copy of its own


def test_without_onednn_the_states_are_the_same(models, monkeypatch):
    folder, _ = models("roberta")
    expected = ours(loaded(folder), ROWS)
    monkeypatch.setattr(packed, "_has_onednn", lambda: False)
    assert_close(ours(loaded(folder), ROWS), expected)


@pytest.mark.parametrize("compute", ["bfloat16", "float16", "int8"])
@pytest.mark.parametrize("name", ["bert", "esm-rotary"])
def test_shorter_numbers_give_nearly_the_same_direction(models, name, compute):
    folder, network = models(name)
    found, expected = torch.cat(list(ours(loaded(folder, compute=compute), ROWS))), torch.cat(theirs(network, ROWS))
    assert torch.nn.functional.cosine_similarity(found.float(), expected).min() > 0.98
    assert not torch.equal(found.float(), expected)


@given(st.lists(st.integers(1, 66), min_size=1, max_size=12), st.integers(0, 99), st.integers(1, 200), st.data())
@settings(deadline=None, max_examples=25)
def test_a_rows_states_do_not_depend_on_its_neighbours(shared, lengths, seed, budget, data):
    some = rows(*lengths, seed=seed)
    alone = [shared.states(ids, np.array([len(ids)])) for ids in some]
    order = data.draw(st.permutations(range(len(some))))
    some, alone = [some[at] for at in order], [alone[at] for at in order]
    for cut in batches(np.array([len(ids) for ids in some]), budget):
        assert_close(ours(shared, [some[row] for row in cut]), [alone[row] for row in cut], 1e-5)


@pytest.fixture(scope="module")
def shared(models):
    return loaded(models("esm-rotary-dropout")[0])


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 100))
@settings(deadline=None)
def test_batches_hold_each_row_once_and_keep_the_budget(lengths, budget):
    lengths = np.array(lengths, np.int64)
    found = list(batches(lengths, budget))
    assert sorted(np.concatenate([[], *found])) == list(range(len(lengths)))
    assert all(len(cut) == 1 or lengths[cut].sum() <= budget for cut in found)
    for cut, following in pairwise(found):
        assert lengths[cut].sum() + lengths[following[0]] > budget
    falling = [lengths[row] for cut in found for row in cut]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2', packed ones are bert, camembert, distilbert, electra, esm, ro"),
        ({"is_decoder": True}, "it is a decoder"),
        ({"hidden_act": "silu"}, "its activation is 'silu', packed ones are gelu and relu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"model_type": "electra", "embedding_size": 8}, "the embedding has 8 dimensions and is projected to 24"),
    ],
)
def test_says_why_a_model_cannot_run_packed(tmp_path, values, told):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"} | SIZES | values))
    assert told in unknown(str(tmp_path))


def test_refuses_weights_with_holes_or_of_another_size(tmp_path):
    from safetensors.torch import load_file, save_file

    made(tmp_path, "bert")
    weights = load_file(tmp_path / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    save_file(weights | {name: weights[name][:, :40].contiguous()}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"{name} is 24x40, by config\.json it should be 24x48: config and weights"):
        loaded(str(tmp_path))
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"the weights have no {name}; they belong to another config\.json or are"):
        loaded(str(tmp_path))


# --- engines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["packed", "reference", "auto"])
def test_all_engines_give_the_same_states(models, choice):
    folder, network = models("bert")
    with engine.opened(folder, choice, device="cpu") as found:
        assert found.name in ((choice,) if choice != "auto" else ("packed", "reference"))
        assert dict(found.rates).keys() == ({"packed", "reference"} if choice == "auto" else set())
        assert_close(ours(found, ROWS), theirs(network, ROWS))


def test_what_cannot_run_packed_runs_by_the_reference(tmp_path):
    network = made(tmp_path, "bert", hidden_act="silu")
    with engine.opened(str(tmp_path), "packed", device="cpu") as found:
        assert found.name == "reference"
        assert_close(ours(found, ROWS), theirs(network, ROWS))


def test_whole_numbers_are_refused_where_they_cannot_be(models, tmp_path):
    made(tmp_path, "bert", hidden_act="silu")
    with (
        pytest.raises(PlanError, match=r"compute = 'int8' is of the packed engine on a processor; here: .*'silu'"),
        engine.opened(str(tmp_path), "packed", "int8", device="cpu"),
    ):
        pass
    with pytest.raises(PlanError, match="engine reference"), engine.opened(models("bert")[0], "reference", "int8"):
        pass


def test_a_trial_runs_full_batches_of_each_engine_in_all_lanes():
    seen = {"packed": [], "reference": []}

    def states(name):
        def record(ids, lengths):
            seen[name].append((lengths.sum(), lengths.max() * len(lengths), torch.get_num_threads()))
            return torch.zeros(len(ids), 1)

        return record

    ours = Engine("packed", states("packed"), packed.batches, 512)
    theirs = Engine("reference", states("reference"), transformer.batches, 4096)
    with engine.lanes(2) as each:
        found = engine._faster(ours, theirs, engine._Trial(40, 256, 2), each)
    assert found.told.startswith(f"{found.name} of packed ")
    for name, size, padded in (("packed", 512, 0), ("reference", 4096, 1)):
        warm, tried = seen[name][:2], seen[name][2:]
        assert [one[0] for one in warm] == [32, 32]
        assert len(tried) == 2 * engine._TRIES
        assert all(0.5 * size < one[padded] <= size and one[2] == 1 for one in tried)


def test_a_long_trial_is_not_repeated(monkeypatch):
    monkeypatch.setattr(engine, "_ENOUGH_SECONDS", 0.0)
    calls = []
    states = lambda ids, lengths: calls.append(len(ids)) or torch.zeros(1)  # noqa: E731
    engine._Trial(40, 256, 1).rate(Engine("packed", states, packed.batches, 512), engine._in_turn)
    assert len(calls) == 2


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_lanes_do_every_batch_once_and_set_the_threads_back(threads, count):
    before, done = torch.get_num_threads(), []
    with engine.lanes(threads) as each:
        each(lambda cut: done.append((int(cut[0]), torch.get_num_threads())), [np.array([i]) for i in range(count)])
    assert sorted(row for row, _ in done) == list(range(count))
    assert all(used == (threads // min(threads, count)) for _, used in done)
    assert torch.get_num_threads() == before


def test_an_error_in_a_lane_is_that_of_the_whole():
    def fail(cut):
        raise ValueError(f"batch {cut[0]}")

    with pytest.raises(ValueError, match="batch 0"), engine.lanes(2) as each:
        each(fail, [np.array([0]), np.array([1])])
