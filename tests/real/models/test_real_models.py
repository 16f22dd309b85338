"""The weights that packages carry, on real data, against the definitions of their authors."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.core.batch import digest, to_numpy
from penstock.errors import RowErrors
from penstock.models.catalogue import CATALOGUE, folder_of, tokenizer_folder_of, verify
from penstock.models.transformer import shape_of
from penstock.stages.clean import Clean
from penstock.stages.encode import Encode
from penstock.stages.extract import Extract
from penstock.stages.tokens import Tokens

EXAMPLES = Path(__file__).parents[3] / "examples"
LOADED = [name for name, entry in CATALOGUE.items() if entry.tokenizer]


def through(batch, *stages):
    for stage in stages:
        with stage.open() as transform:
            batch = transform(batch)
    return batch


def chains():
    headers, sequences = [], []
    for line in (EXAMPLES / "antibodies/chains.fasta").read_text().splitlines():
        if line.startswith(">"):
            headers.append(line[1:])
            sequences.append("")
        else:
            sequences[-1] += line
    return pa.table({"description": headers, "sequence": sequences})


@pytest.fixture(scope="module")
def antibodies():
    return through(
        chains(),
        Extract(r"GN=(?P<family>IG[HKL]V)"),
        Clean(alphabet="protein"),
        Tokens("antiberty"),
        Encode("antiberty", special="exclude"),
    )


@pytest.fixture(scope="module")
def texts():
    lines = [json.loads(line) for line in (EXAMPLES / "text/docstrings.jsonl").open()]
    return through(
        pa.Table.from_pylist(lines),
        Clean("text", alphabet="text"),
        Tokens("minilm", column="text"),
        Encode("minilm", normalize=True),
    )


@pytest.mark.parametrize("name", LOADED)
def test_the_weights_are_the_pinned_ones(name):
    verify(name)
    assert shape_of(name).width == CATALOGUE[name].width


def test_no_package_with_weights_is_imported(antibodies, texts):
    assert not {entry.package for entry in CATALOGUE.values()} & set(sys.modules)


def test_antibody_tokens_are_those_of_their_authors(antibodies):
    from transformers import BertTokenizer

    theirs = BertTokenizer(str(tokenizer_folder_of("antiberty") / "vocab.txt"), do_lower_case=False)
    expected = [theirs(" ".join(s))["input_ids"] for s in antibodies["sequence"].to_pylist()]
    assert antibodies["input_ids"].to_pylist() == expected


def test_antibody_embeddings_are_those_of_a_loop_over_sequences(antibodies):
    """The mean over residues of the encoder of a masked language model, one sequence at a time."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    network = BertForMaskedLM(BertConfig.from_json_file(folder_of("antiberty") / "config.json")).eval()
    weights = torch.load(folder_of("antiberty") / "pytorch_model.bin", weights_only=True, map_location="cpu")
    network.load_state_dict({k: v for k, v in weights.items() if k.startswith(("bert.", "cls.pred"))}, strict=False)
    some = antibodies.take(list(range(0, antibodies.num_rows, 6)))
    with torch.inference_mode():
        states = [network.bert(torch.tensor([ids])).last_hidden_state[0, 1:-1] for ids in some["input_ids"].to_pylist()]
    expected = np.stack([state.mean(0).numpy() for state in states])
    np.testing.assert_allclose(to_numpy(some["embedding"]), expected, rtol=0, atol=1e-5)


def nearest_agree(vectors, truth):
    """The share of rows whose nearest neighbour by the cosine has the same truth."""
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -1)
    return float((truth[likeness.argmax(1)] == truth).mean())


def test_neighbours_of_antibodies_are_of_the_same_gene_family(antibodies):
    vectors = to_numpy(antibodies["embedding"])
    assert antibodies.num_rows == 143
    assert nearest_agree(vectors - vectors.mean(0), np.array(antibodies["family"].to_pylist())) >= 0.98


def test_text_embeddings_are_those_of_sentence_transformers(texts):
    """By its definition: at most 256 tokens, the mean over all of them, length one; one text at a time."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = folder_of("minilm")
    words, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    some = texts.take(list(range(0, texts.num_rows, 4)))
    found = []
    with torch.inference_mode():
        for text in some["text"].to_pylist():
            given = words(text, truncation=True, max_length=256, return_tensors="pt")
            mean = network(**given).last_hidden_state[0].mean(0)
            found.append((mean / mean.norm()).numpy())
    np.testing.assert_allclose(to_numpy(some["embedding"]), np.stack(found), rtol=0, atol=1e-5)


def test_text_tokens_are_those_of_the_model(texts):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder_of("minilm"))
    assert texts["input_ids"].to_pylist() == [theirs(text)["input_ids"] for text in texts["text"].to_pylist()]


def test_neighbours_of_texts_are_of_the_same_topic(texts):
    assert texts.num_rows == 256
    assert nearest_agree(to_numpy(texts["embedding"]), np.array(texts["topic"].to_pylist())) >= 0.9


def test_the_same_batch_gives_the_same_bytes(texts):
    some = texts.slice(0, 20).drop_columns(["embedding"])
    stage = Encode("minilm", normalize=True)
    assert digest(through(some, stage)) == digest(through(some, stage))


def test_long_texts_are_refused_or_cut_as_told():
    batch = pa.table({"text": ["word " * 300, "word"]})
    with pytest.raises(RowErrors, match="text has 302 tokens, 'minilm' takes 256; cut it before, or set too_long"):
        through(batch, Tokens("minilm", column="text"))
    cut = through(batch, Tokens("minilm", column="text", too_long="truncate"))["input_ids"].to_pylist()
    assert [len(ids) for ids in cut] == [256, 3]
    assert cut[0][-1] == cut[1][-1]
