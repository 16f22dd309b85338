"""The embedding of MiniLM and AntiBERTy, with the weights that packages carry, on real texts and antibodies."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from penstock.core.batch import to_numpy
from penstock.models import tokenizer
from penstock.models.catalogue import CATALOGUE, folder_of, tokenizer_folder_of
from penstock.models.embedding import Text, architecture_of, embedded, loaded, tensor_hashes
from penstock.models.transformer import weights_hashes
from penstock.stages.embedding import Embedding
from penstock.stages.tokens import Tokens

EXAMPLES = Path(__file__).parents[3] / "examples"
LOADED = [name for name, entry in CATALOGUE.items() if entry.tokenizer]


def through(stage, batch):
    with stage.open() as transform:
        return transform(batch)


def texts(name):
    if name == "minilm":
        return [json.loads(line)["text"] for line in (EXAMPLES / "text/docstrings.jsonl").open()][:300]
    lines = (EXAMPLES / "antibodies/chains.fasta").read_text().split(">")[1:]
    return ["".join(line.split("\n")[1:]) for line in lines][:300]


@pytest.fixture(scope="module", params=LOADED)
def real(request):
    """A model's name, its network, and token ids of real rows."""
    from transformers import AutoModel

    name = request.param
    network = AutoModel.from_pretrained(folder_of(name), add_pooling_layer=False, dtype="float32").eval()
    longest = architecture_of(name).longest
    batch = through(Tokens(name, max_length=longest, too_long="truncate"), pa.table({"sequence": texts(name)}))
    return name, network, batch


def grid(batch, padding=0):
    rows = batch["input_ids"].to_pylist()
    ids = np.full((len(rows), max(map(len, rows))), padding)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
    return ids, np.arange(ids.shape[1]) < np.array([len(row) for row in rows])[:, None]


def test_the_padded_grid_is_that_of_the_models_own_module(real):
    name, network, batch = real
    ids, _ = grid(batch)
    found = architecture_of(name)
    ours = embedded(found, loaded(name, found), Text(ids.reshape(-1), np.full(len(ids), ids.shape[1])))
    with torch.inference_mode():
        expected = network.embeddings(torch.from_numpy(ids))
    assert torch.equal(torch.from_numpy(ours).reshape(expected.shape), expected)


def test_ragged_rows_are_those_of_the_models_own_module(real):
    name, network, batch = real
    ids, mask = grid(batch)
    with torch.inference_mode():
        expected = network.embeddings(torch.from_numpy(ids)).numpy()[mask]
    found = through(Embedding(name), batch)["embedding"].combine_chunks()
    np.testing.assert_array_equal(found.values.values.to_numpy().reshape(expected.shape), expected)


def test_inputs_embeds_gives_the_models_output(real):
    name, network, batch = real
    batch = batch.slice(0, 24)
    ids, mask = grid(batch)
    found = through(Embedding(name, part="inputs_embeds", length=ids.shape[1]), batch)
    assert (to_numpy(found["mask"]) == mask).all()
    attention = torch.from_numpy(mask.astype(np.int64))
    with torch.inference_mode():
        given = torch.from_numpy(to_numpy(found["embedding"]).copy())
        ours = network(inputs_embeds=given, attention_mask=attention).last_hidden_state
        theirs = network(input_ids=torch.from_numpy(ids), attention_mask=attention).last_hidden_state
    assert torch.equal(ours[attention == 1], theirs[attention == 1])


def test_the_lookup_is_the_product_with_one_hot_vectors(real):
    name, network, batch = real
    ids, _ = grid(batch.slice(0, 4))
    table = network.get_input_embeddings().weight.detach()
    product = torch.nn.functional.one_hot(torch.from_numpy(ids), len(table)).float() @ table
    found = architecture_of(name)
    text = Text(ids.reshape(-1), np.full(len(ids), ids.shape[1]))
    ours = torch.from_numpy(embedded(found, loaded(name, found), text, "tokens"))
    assert torch.equal(ours.reshape(product.shape), product)


def test_windows_of_a_long_text_are_those_of_its_tokenizer():
    from tokenizers import Tokenizer

    whole = " ".join(texts("minilm"))
    live = Tokenizer.from_file(str(tokenizer_folder_of("minilm") / "tokenizer.json"))
    live.no_padding()
    live.enable_truncation(128, stride=32)
    first = live.encode(whole)
    batch = through(Tokens("minilm", max_length=1 << 20), pa.table({"sequence": [whole]}))
    found = through(Embedding("minilm", window=128, overlap=32, length=128), batch)
    assert found["input_ids"].to_pylist() == [first.ids, *(more.ids for more in first.overflowing)]
    assert found.num_rows > 50
    assert to_numpy(found["embedding"]).shape == (found.num_rows, 128, 384)


def test_the_identity_is_that_of_the_embedding_alone_where_the_file_allows_it():
    name = "embeddings.{}"
    terms = ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
    tensors = {name.format(f"{term}.weight") for term in terms} | {name.format("LayerNorm.bias")}
    assert set(tensor_hashes("minilm")) == {"config.json", *tensors}
    assert tensor_hashes("antiberty") == weights_hashes("antiberty")


def test_special_tokens_are_those_of_the_tokenizer():
    from penstock.models.tokenizer import sides_of

    for name in LOADED:
        head, tail = sides_of(name)
        assert [*head, *tail] == tokenizer.frame_of(tokenizer.load(name))
        assert (len(head), len(tail)) == (1, 1)
