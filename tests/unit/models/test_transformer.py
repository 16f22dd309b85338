import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import PlanError, WeightsError
from penstock.models import transformer
from penstock.models.transformer import Shape, batches, grid, shape_of
from penstock.testing.models import tiny_encoder

LENGTHS = st.lists(st.integers(1, 30), max_size=20).map(lambda found: np.array(found, np.int64))


@given(LENGTHS, st.integers(1, 100))
@settings(deadline=None)
def test_batches_hold_each_row_once_and_keep_the_budget(lengths, budget):
    found = list(batches(lengths, budget))
    assert sorted(np.concatenate([[], *found])) == list(range(len(lengths)))
    for rows in found:
        assert len(rows) == 1 or len(rows) * lengths[rows].max() <= budget
    falling = [lengths[row] for rows in found for row in rows]
    assert falling == sorted(falling, reverse=True)


@given(LENGTHS.filter(len), st.randoms())
@settings(deadline=None)
def test_grid_says_where_each_token_stands(lengths, random):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.array(random.sample(range(len(lengths)), random.randint(1, len(lengths))))
    found = grid(offsets, rows)
    assert found.shape == (len(rows), lengths[rows].max())
    for line, row in zip(found.tolist(), rows, strict=True):
        tokens = list(range(offsets[row], offsets[row + 1]))
        assert line == tokens + [-1] * (found.shape[1] - len(tokens))


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (
            {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 3, "vocab_size": 9, "pad_token_id": 0}
            | {"max_position_embeddings": 512},
            Shape(8, 3, 9, 512, 0),
        ),
        (
            {"model_type": "roberta", "hidden_size": 8, "num_hidden_layers": 3, "vocab_size": 9, "pad_token_id": 1}
            | {"max_position_embeddings": 514},
            Shape(8, 3, 9, 512, 1),
        ),
        (
            {"model_type": "esm", "hidden_size": 8, "num_hidden_layers": 3, "vocab_size": 33, "pad_token_id": 1}
            | {"max_position_embeddings": 1026, "position_embedding_type": "rotary"},
            Shape(8, 3, 33, 0, 1),
        ),
        ({"model_type": "gpt2", "n_embd": 8, "n_layer": 2, "vocab_size": 9, "n_positions": 64}, Shape(8, 2, 9, 64, 0)),
        ({"model_type": "distilbert", "dim": 8, "n_layers": 2, "vocab_size": 9}, Shape(8, 2, 9, 0, 0)),
    ],
)
def test_reads_the_sizes_of_many_families(tmp_path, config, shape):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert shape_of(str(tmp_path)) == shape


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "config.json: cannot be read .*; a model folder needs config.json"),
        ("{", "config.json: not JSON: .*; fetch the model again"),
        ("{}", "has none of hidden_size, n_embd, d_model, dim; a transformer's config was needed"),
        (
            '{"is_encoder_decoder": true, "model_type": "t5"}',
            r"an encoder with a decoder \(t5\); an encoder was needed",
        ),
    ],
)
def test_says_what_is_wrong_with_a_config(tmp_path, text, told):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=told):
        shape_of(str(tmp_path))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("tiny"))


def copied(tiny, folder, *names):
    for name in names:
        (folder / name).write_bytes((tiny / name).read_bytes())


def opening(folder, **more):
    with transformer.opened(str(folder), **more):
        pass


def test_counts_the_bytes_of_float32_weights(tiny):
    from transformers import AutoModel

    expected = sum(
        4 * weight.numel() for weight in AutoModel.from_pretrained(tiny, add_pooling_layer=False).parameters()
    )
    assert transformer.weights_bytes(str(tiny)) == expected


def test_refuses_a_folder_with_other_pickles_alone(tiny, tmp_path):
    copied(tiny, tmp_path, "config.json")
    (tmp_path / "weights.pkl").write_bytes(b"")
    with pytest.raises(
        WeightsError, match=r"found config.json, weights.pkl; model.safetensors or pytorch_model.bin was"
    ):
        opening(tmp_path)


class Hostile:
    """A pickle that makes a file when it is read."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.mark.parametrize("form", ["zip", "plain"])
def test_refuses_a_pickle_that_runs_code(tiny, tmp_path, form):
    import torch

    copied(tiny, tmp_path, "config.json")
    weights = {"embeddings.word_embeddings.weight": Hostile(tmp_path / "was here")}
    if form == "zip":
        torch.save(weights, tmp_path / "pytorch_model.bin")
    else:
        (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(weights, 2))
    with pytest.raises(WeightsError, match="the file holds more than weights and could run code; get the model as"):
        opening(tmp_path)
    assert not (tmp_path / "was here").exists()
    for made in pickle.loads(pickle.dumps(weights)).values():
        made.close()
    assert (tmp_path / "was here").exists(), "the pickle was harmless"


def test_refuses_weights_with_holes(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    copied(tiny, tmp_path, "config.json")
    weights = load_file(tiny / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        WeightsError,
        match=r"1 weights are missing, the first is encoder\.layer\.1\.output\.dense\.weight; they would be",
    ):
        opening(tmp_path)


def test_refuses_a_truncated_file(tiny, tmp_path):
    copied(tiny, tmp_path, "config.json")
    (tmp_path / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"the weights cannot be loaded: .* fetch it again"):
        opening(tmp_path)


def test_refuses_a_model_that_brings_its_own_code(tiny, tmp_path):
    copied(tiny, tmp_path, "config.json", "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    own = {"model_type": "mystery", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config | own))
    (tmp_path / "own.py").write_text("raise RuntimeError('imported')")
    with pytest.raises(WeightsError, match="the model needs code of its own, which is never run"):
        opening(tmp_path)


def test_reads_a_bin_that_holds_nothing_but_weights(tiny, tmp_path):
    import torch
    from safetensors.torch import load_file

    copied(tiny, tmp_path, "config.json")
    torch.save(load_file(tiny / "model.safetensors"), tmp_path / "pytorch_model.bin")
    ids, mask = np.array([[2, 5, 6, 3]]), np.ones((1, 4), bool)
    with transformer.opened(str(tiny)) as left, transformer.opened(str(tmp_path)) as right:
        assert torch.equal(left(ids, mask), right(ids, mask))


def test_threads_are_set_while_open_and_set_back(tiny):
    import torch

    before = torch.get_num_threads()
    with transformer.opened(str(tiny), threads=before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_prints_nothing(tiny, capfd):
    opening(tiny)
    assert capfd.readouterr() == ("", "")


def test_refuses_a_gpu_that_is_not_there(tiny, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(PlanError, match="device = 'cuda', but torch sees no GPU here; give the step's place gpus = 1"):
        opening(tiny, device="cuda")
