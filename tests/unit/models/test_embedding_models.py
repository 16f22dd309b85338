"""The sums are held, bit for bit, against the modules of transformers; windows against a plain loop."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import WeightsError
from penstock.models.embedding import (
    FAMILIES,
    Text,
    Weights,
    architecture_of,
    embedded,
    loaded,
    positions,
    sinusoids,
    table_bytes,
    tensor_hashes,
    windows,
)

SIZES = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 34,
}
ESM = SIZES | {"pad_token_id": 1, "mask_token_id": 39}
ROTARY, ABSOLUTE = {"position_embedding_type": "rotary"}, {"position_embedding_type": "absolute"}
DROPOUT, NORM = {"token_dropout": True}, {"emb_layer_norm_before": True}
LLAMA = SIZES | {"num_key_value_heads": 2}
MODELS = {
    "bert": ("BertModel", SIZES),
    "roberta": ("RobertaModel", SIZES | {"pad_token_id": 1}),
    "xlm-roberta": ("XLMRobertaModel", SIZES | {"pad_token_id": 1}),
    "camembert": ("CamembertModel", SIZES | {"pad_token_id": 1}),
    "mpnet": ("MPNetModel", SIZES),
    "electra": ("ElectraModel", SIZES | {"embedding_size": 24}),
    "distilbert": ("DistilBertModel", SIZES | {"dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}),
    "distilbert-sinusoids": (
        "DistilBertModel",
        SIZES | {"dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "sinusoidal_pos_embds": True},
    ),
    "gpt2": ("GPT2Model", {"vocab_size": 40, "n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 32}),
    "gpt_neox": ("GPTNeoXModel", SIZES),
    "llama": ("LlamaModel", LLAMA),
    "mistral": ("MistralModel", LLAMA),
    "qwen2": ("Qwen2Model", LLAMA),
    "qwen3": ("Qwen3Model", LLAMA),
    "modernbert": ("ModernBertModel", SIZES | {"pad_token_id": 1, "cls_token_id": 2, "sep_token_id": 3}),
    "esm-rotary": ("EsmModel", ESM | ROTARY),
    "esm-rotary-dropout": ("EsmModel", ESM | ROTARY | DROPOUT),
    "esm-absolute": ("EsmModel", ESM | ABSOLUTE),
    "esm-absolute-dropout": ("EsmModel", ESM | ABSOLUTE | DROPOUT),
    "esm-absolute-dropout-norm": ("EsmModel", ESM | ABSOLUTE | DROPOUT | NORM),
}
MASK = 39


def made(folder, name, **more):
    """A small model with random weights, saved; biases and LayerNorms too, so that none is a plain 0 or 1."""
    import transformers

    kind, sizes = MODELS[name]
    model = getattr(transformers, kind)
    torch.manual_seed(1)
    network = model(model.config_class(**sizes, **more)).eval()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.5)
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


def grid(padding):
    """Four rows filled up with *padding*, with masks and a padding token inside; and their attention mask."""
    random = np.random.default_rng(0)
    lengths = np.array([32, 5, 17, 1])
    mask = np.arange(32) < lengths[:, None]
    ids = np.where(mask, random.integers(5, 38, size=mask.shape), padding)
    ids[0, [3, 4, 20]], ids[1, 2], ids[2, 6] = MASK, MASK, padding
    return ids, mask


def theirs(name, network, ids, mask=None):
    """The output of the network's own embedding module, or of its tables where it has no module."""
    ids = torch.from_numpy(ids)
    with torch.inference_mode():
        if name == "gpt2":
            return network.wte(ids) + network.wpe(torch.arange(ids.shape[1]))[None]
        if not hasattr(network, "embeddings"):
            return network.get_input_embeddings()(ids)
        if name.startswith("esm") and mask is not None:
            return network.embeddings(ids, attention_mask=torch.from_numpy(mask.astype(np.int64)))
        return network.embeddings(ids)


def ours(folder, ids, part="sum", mask=None):
    found = architecture_of(folder)
    text = Text(ids.reshape(-1), np.full(len(ids), ids.shape[1]), real=None if mask is None else mask.reshape(-1))
    return torch.from_numpy(embedded(found, loaded(folder, found), text, part)).reshape(*ids.shape, found.width)


def ragged(folder, ids, mask, part="sum"):
    found = architecture_of(folder)
    text = Text(ids[mask], mask.sum(1))
    return torch.from_numpy(embedded(found, loaded(folder, found), text, part))


def test_every_family_has_a_model_here():
    assert {name.split("-", maxsplit=1)[0] if name != "xlm-roberta" else name for name in MODELS} == set(FAMILIES)


@pytest.mark.parametrize("name", MODELS)
def test_the_sum_is_that_of_the_models_own_module(models, name):
    folder, network = models(name)
    ids, mask = grid(architecture_of(folder).padding)
    assert torch.equal(ours(folder, ids, mask=mask), theirs(name, network, ids, mask))
    assert torch.equal(ours(folder, ids), theirs(name, network, ids))


@pytest.mark.parametrize("name", MODELS)
def test_rows_without_padding_give_the_same_vectors(models, name):
    folder, network = models(name)
    ids, mask = grid(architecture_of(folder).padding)
    assert torch.equal(ragged(folder, ids, mask), theirs(name, network, ids, mask)[torch.from_numpy(mask)])


@pytest.mark.parametrize("name", MODELS)
def test_the_sum_is_hidden_state_zero(models, name):
    folder, network = models(name)
    ids, mask = grid(architecture_of(folder).padding)
    with torch.inference_mode():
        given = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
        expected = network(**given, output_hidden_states=True).hidden_states[0]
    assert torch.equal(ragged(folder, ids, mask), expected[torch.from_numpy(mask)])


@pytest.mark.parametrize("name", MODELS)
def test_inputs_embeds_gives_the_models_output_and_adds_nothing_twice(models, name):
    folder, network = models(name)
    ids, mask = grid(architecture_of(folder).padding)
    ids[2, 6] = 7  # a padding token inside a text cannot be told from its vector
    attention = torch.from_numpy(mask.astype(np.int64))
    vectors = torch.zeros(*ids.shape, 24)
    vectors[torch.from_numpy(mask)] = ragged(folder, ids, mask, "inputs_embeds")
    with torch.inference_mode():
        expected = network(input_ids=torch.from_numpy(ids), attention_mask=attention).last_hidden_state
        found = network(inputs_embeds=vectors, attention_mask=attention).last_hidden_state
    there = torch.from_numpy(mask)
    assert torch.equal(found[there], expected[there])


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "distilbert"])
def test_the_sum_as_inputs_embeds_would_add_positions_twice(models, name):
    folder, network = models(name)
    ids, _ = grid(architecture_of(folder).padding)
    with torch.inference_mode():
        expected = network(input_ids=torch.from_numpy(ids)).last_hidden_state
        found = network(inputs_embeds=ours(folder, ids, "sum")).last_hidden_state
    assert not torch.allclose(found, expected, atol=1e-2)


@pytest.mark.parametrize("name", ["bert", "esm-absolute-dropout", "gpt2"])
def test_the_lookup_is_the_product_with_one_hot_vectors(models, name):
    folder, network = models(name)
    ids, _ = grid(1)
    table = network.get_input_embeddings().weight.detach()
    product = torch.nn.functional.one_hot(torch.from_numpy(ids), len(table)).float() @ table
    assert torch.equal(ours(folder, ids, "tokens"), product)


@pytest.mark.parametrize("name", ["bert", "roberta", "electra"])
def test_types_are_added_as_the_model_adds_them(models, name):
    folder, network = models(name)
    ids, _ = grid(1)
    kinds = np.zeros_like(ids) if name == "roberta" else (np.arange(32) > 9).astype(np.int64)[None].repeat(4, 0)
    found = architecture_of(folder)
    text = Text(ids.reshape(-1), np.full(4, 32), types=kinds.reshape(-1))
    with torch.inference_mode():
        expected = network.embeddings(torch.from_numpy(ids), token_type_ids=torch.from_numpy(kinds))
    assert torch.equal(torch.from_numpy(embedded(found, loaded(folder, found), text)).reshape(4, 32, 24), expected)


def test_blocks_do_not_show(models, monkeypatch):
    folder, _ = models("esm-absolute-dropout-norm")
    ids, mask = grid(1)
    whole = ours(folder, ids, mask=mask)
    monkeypatch.setattr("penstock.models.embedding._BLOCK_BYTES", 7 * 4 * 24)
    assert torch.equal(ours(folder, ids, mask=mask), whole)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_any_table_that_gives_rows_takes_the_place_of_the_models_own(models, kind):
    """The seam for tables larger than a node: what is looked up need not be a tensor."""
    folder, network = models("bert")
    ids, mask = grid(0)
    found = architecture_of(folder)
    table = network.get_input_embeddings().weight.detach().numpy().astype(kind)
    before = table.copy()
    text = Text(ids[mask], mask.sum(1))
    weights = loaded(folder, found)
    expected = embedded(found, replace(weights, words=torch.from_numpy(table).float()), text)
    np.testing.assert_array_equal(embedded(found, replace(weights, words=table), text), expected)
    np.testing.assert_array_equal(table, before)


def test_a_table_alone_needs_no_torch_tensors():
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    found = replace(architecture_named("llama"), width=3, vocabulary=4)
    text = Text(np.array([3, 0, 3]), np.array([2, 1]))
    np.testing.assert_array_equal(embedded(found, Weights(table), text), table[[3, 0, 3]])


def architecture_named(kind):
    from penstock.models.embedding import Architecture

    return Architecture(FAMILIES[kind], 24, 40, 0, 0, 0, 1, 1e-5, None, False)


def test_float16_is_rounded_once_at_the_end(models):
    folder, _ = models("bert")
    ids, mask = grid(0)
    found = architecture_of(folder)
    text, weights = Text(ids[mask], mask.sum(1)), loaded(folder, found)
    half = embedded(found, weights, text, dtype=np.float16)
    np.testing.assert_array_equal(half, embedded(found, weights, text).astype(np.float16))


# --- positions -------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=6), st.integers(0, 3))
def test_positions_after_padding_are_those_of_fairseq(rows, padding):
    """Fairseq's utils.make_positions, a row at a time."""
    text = Text(np.array([i for row in rows for i in row], np.int64), np.array([len(row) for row in rows]))
    expected = []
    for row in rows:
        count = padding
        for token in row:
            count += token != padding
            expected.append(count if token != padding else padding)
    found = positions(replace(architecture_named("roberta"), padding=padding), text)
    assert found.tolist() == expected


@given(st.lists(st.integers(0, 6), max_size=6))
def test_counted_positions_begin_anew_in_each_row(lengths):
    text = Text(np.zeros(sum(lengths), np.int64), np.array(lengths, np.int64))
    assert positions(architecture_named("bert"), text).tolist() == [step for n in lengths for step in range(n)]


def test_sinusoids_are_those_of_distilbert():
    from transformers.models.distilbert.modeling_distilbert import create_sinusoidal_embeddings

    expected = torch.empty(512, 768)
    create_sinusoidal_embeddings(512, 768, expected)
    assert torch.equal(sinusoids(512, 768), expected)


def test_sinusoids_that_the_file_does_not_hold_are_computed(models, tmp_path):
    from safetensors.torch import load_file, save_file

    folder, network = models("distilbert-sinusoids")
    tensors = load_file(f"{folder}/model.safetensors")
    name = "embeddings.position_embeddings.weight"
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    network.config.save_pretrained(tmp_path)
    found = loaded(str(tmp_path), architecture_of(str(tmp_path)))
    assert torch.equal(found.position, sinusoids(34, 24))


# --- windows ---------------------------------------------------------------------------------------------


def cut(row, head, tail, size, overlap):
    """The windows of one row, by a plain loop: ``(start, tokens)``."""
    inner, room = row[head : len(row) - tail], size - head - tail
    start, found = 0, []
    while True:
        found.append((start, row[:head] + inner[start : start + room] + row[len(row) - tail :]))
        if start + room >= len(inner):
            return found
        start += room - overlap


@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=5),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 5),
    st.integers(1, 6),
)
def test_windows_are_those_of_a_plain_loop(rows, head, tail, overlap, fresh):
    size = head + tail + overlap + fresh
    framed = np.array([has for _, has in rows])
    lengths = np.array([inner + has * (head + tail) for inner, has in rows])
    found = windows(lengths, framed * head, framed * tail, size, overlap)
    ends = np.cumsum(lengths)
    expected = [
        (row, number, start, tokens)
        for row, (end, length, has) in enumerate(zip(ends.tolist(), lengths.tolist(), framed, strict=True))
        for number, (start, tokens) in enumerate(
            cut(list(range(end - length, end)), head * has, tail * has, size, overlap)
        )
    ]
    assert found.rows.tolist() == [line[0] for line in expected]
    assert found.number.tolist() == [line[1] for line in expected]
    assert found.starts.tolist() == [line[2] for line in expected]
    assert found.lengths.tolist() == [len(line[3]) for line in expected]
    assert found.at.tolist() == [place for line in expected for place in line[3]]


# --- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "model"), [("bert", "BertForMaskedLM"), ("gpt2", "GPT2LMHeadModel"), ("llama", "LlamaForCausalLM")]
)
def test_finds_the_tables_in_a_network_with_a_head(tmp_path, kind, model):
    import transformers

    made_by = getattr(transformers, model)
    network = made_by(made_by.config_class(**MODELS[kind][1])).eval()
    network.save_pretrained(tmp_path)
    ids, _ = grid(0)
    assert torch.equal(ours(str(tmp_path), ids), theirs(kind, network.base_model, ids))


def test_takes_shards_pickles_and_the_names_of_tensorflow(models, tmp_path):
    _, network = models("bert")
    ids, _ = grid(0)
    expected = theirs("bert", network, ids)
    network.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    old = {
        "bert." + name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): tensor
        for name, tensor in network.state_dict().items()
    }
    for name, zipped in (("bin", True), ("legacy", False)):
        network.config.save_pretrained(tmp_path / name)
        torch.save(old, tmp_path / name / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    for name in ("shards", "bin", "legacy"):
        assert torch.equal(ours(str(tmp_path / name), ids), expected), name


def test_half_precision_weights_are_used_as_float32(tmp_path):
    from transformers import BertModel

    made(tmp_path / "first", "bert").to(torch.bfloat16).save_pretrained(tmp_path)
    network = BertModel.from_pretrained(tmp_path, dtype="float32").eval()
    ids, _ = grid(0)
    assert torch.equal(ours(str(tmp_path), ids), theirs("bert", network, ids))
    assert loaded(str(tmp_path), architecture_of(str(tmp_path))).words.dtype == torch.bfloat16


def test_other_tensors_are_not_read(models, tmp_path):
    """The rest of the file is cut off: who read it would notice. And it is not in the identity."""
    folder, network = models("bert")
    path = tmp_path / "model.safetensors"
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(Path(folder, name).read_bytes())
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    begin, end = header["encoder.layer.0.intermediate.dense.weight"]["data_offsets"]
    data[8 + size + begin : 8 + size + end] = b"\xff" * (end - begin)
    before = tensor_hashes(str(tmp_path))
    path.write_bytes(data)
    ids, _ = grid(0)
    assert torch.equal(ours(str(tmp_path), ids), theirs("bert", network, ids))
    assert tensor_hashes(str(tmp_path)) == before == tensor_hashes(folder)


def test_the_identity_is_the_hash_of_the_tables(models):
    import hashlib

    folder, network = models("gpt2")
    found = tensor_hashes(folder)
    assert sorted(found) == ["config.json", "wpe.weight", "wte.weight"]
    assert found["wte.weight"] == hashlib.sha256(network.wte.weight.detach().numpy().tobytes()).hexdigest()
    assert table_bytes(folder) == 4 * (network.wte.weight.numel() + network.wpe.weight.numel())


def test_the_table_stays_on_disk(models):
    folder, _ = models("bert")
    words = loaded(folder, architecture_of(folder)).words
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if f"{folder}/model.safetensors" in line]
    assert any(int(low, 16) <= words.data_ptr() < int(high, 16) for low, high in spans)


# --- refusals --------------------------------------------------------------------------------------------


def config(folder, **values):
    sizes = SIZES | {"model_type": "bert", "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (sizes | values).items() if v is not None}))
    return str(folder)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"model_type": "deberta-v2"},
            "model_type is 'deberta-v2'; the embedding step knows bert, camembert, .*, xlm-roberta; "
            "the encode step with layer = 0",
        ),
        ({"model_type": None}, "model_type is None; the embedding step knows"),
        ({"position_embedding_type": "relative_key"}, "is 'relative_key'; 'absolute' or 'rotary' was needed"),
        ({"embedding_size": 12}, "has 12 dimensions and is projected to 24, which is no lookup; choose the encode"),
        ({"max_position_embeddings": None}, "has neither max_position_embeddings nor n_positions; fetch"),
        ({"model_type": "esm", "token_dropout": True}, "token_dropout is set without mask_token_id; fetch"),
    ],
)
def test_refuses_a_config_that_it_does_not_know(tmp_path, values, told):
    with pytest.raises(WeightsError, match=told):
        architecture_of(config(tmp_path, **values))


def test_refuses_weights_that_are_incomplete_or_of_another_size(models, tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(f"{models('bert')[0]}/model.safetensors")
    folder = config(tmp_path, vocab_size=41)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"word_embeddings.weight is 40x24, by config.json it should be 41x24"):
        loaded(folder, architecture_of(folder))
    config(tmp_path)
    for name in ("embeddings.LayerNorm.bias", "embeddings.position_embeddings.weight"):
        save_file({n: t for n, t in tensors.items() if n != name}, tmp_path / "model.safetensors")
        with pytest.raises(WeightsError, match=f"the weights have no {name}; they belong to another config.json"):
            loaded(folder, architecture_of(folder))


def test_refuses_a_damaged_file_and_a_pickle_with_code(tmp_path):
    folder = config(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(WeightsError, match=r"no safetensors file .*; fetch the model again"):
        loaded(folder, architecture_of(folder))
    with pytest.raises(WeightsError, match="no safetensors file"):
        tensor_hashes(folder)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"hook": print}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="the file holds more than weights and could run code"):
        loaded(folder, architecture_of(folder))
