"""ESM-2 and a DNA model of six-mers, small and with random weights: from FASTA to vectors, beside transformers."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

import penstock
from penstock.core.nouns import Pipeline, Step
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.sources.fasta import Fasta
from penstock.stages.encode import Encode
from penstock.stages.tokens import Tokens

ESM_2 = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
DNA = ["<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>", *map("".join, product("ATCG", repeat=6)), *"ATCGN"]
MODELS = {
    "ESM-2": (ESM_2, {}, {"position_embedding_type": "rotary", "token_dropout": True}, "MKVLAGXJ"),
    "Nucleotide Transformer": (
        DNA,
        {"eos_token": None},
        {"position_embedding_type": "absolute", "max_position_embeddings": 102},
        "ACGTACGTACGTACGTACGTN",
    ),
}


def folder_with(folder, tokens, special, sizes):
    """What a user has after save_pretrained."""
    import torch
    from transformers import EsmConfig, EsmModel, EsmTokenizer

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(tokens))
    EsmTokenizer(str(folder / "vocab.txt"), **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = EsmConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        pad_token_id=1,
        mask_token_id=tokens.index("<mask>"),
        initializer_range=0.3,
        **sizes,
    )
    EsmModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


def theirs(folder, sequences):
    """Ids and the mean over all tokens, one sequence at a time."""
    import torch
    from transformers import AutoTokenizer, EsmModel

    cut, network = AutoTokenizer.from_pretrained(folder), EsmModel.from_pretrained(folder, add_pooling_layer=False)
    given = [cut(sequence, return_tensors="pt") for sequence in sequences]
    with torch.inference_mode():
        means = [network.eval()(**one).last_hidden_state[0].mean(0).numpy() for one in given]
    return [one["input_ids"][0].tolist() for one in given], np.stack(means)


@pytest.mark.parametrize("name", MODELS)
def test_from_fasta_to_vectors_as_transformers_does_it(tmp_path, name):
    tokens, special, sizes, letters = MODELS[name]
    folder = folder_with(tmp_path / "model", tokens, special, sizes)
    random = np.random.default_rng(0)
    sequences = ["".join(random.choice(list(letters), length)) for length in (1, 5, 6, 7, 40, 61, 90)]
    Path(tmp_path / "in.fasta").write_text("".join(f">s{at}\n{text}\n" for at, text in enumerate(sequences)))
    steps = (Step(Tokens(folder)), Step(Encode(folder, device="cpu")))
    report = Inline().run(Pipeline("p", Fasta(str(tmp_path / "in.fasta")), Parquet(str(tmp_path / "out")), steps))
    assert (report.rows, report.bad_rows) == (7, 0)
    found = penstock.read(report.manifest.uri)
    ids, means = theirs(folder, list(found["sequence"][:]))
    assert [list(row) for row in found["input_ids"][:]] == ids
    np.testing.assert_allclose(np.stack(found["embedding"][:]), means, rtol=0, atol=1e-5)
