import json
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import WeightsError
from penstock.models import tokenizer


def test_reads_tokenizer_json_without_its_padding_and_truncation(tmp_path):
    made = tokenizer.load("residue:protein")
    made.enable_truncation(4)
    made.enable_padding(length=9)
    made.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer.load(str(tmp_path)).encode("ACDEF").ids == [2, 5, 6, 7, 8, 9, 3]


def test_reads_a_vocabulary_with_the_names_of_other_families(tmp_path):
    (tmp_path / "vocab.txt").write_text("<cls>\n<pad>\n<eos>\n<unk>\nL\nA\n-\n<mask>\n")
    found = tokenizer.load(str(tmp_path))
    assert found.encode("LA-?").ids == [0, 4, 5, 6, 3, 2]
    assert tokenizer.frame_of(found) == [0, 2]


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({}, "neither tokenizer.json nor vocab.txt is there; save one beside the model by"),
        ({"vocab.txt": "[UNK]\n[CLS]\n[SEP]\nthe\n##ing"}, r"has pieces of words \('the'\), one letter a token was"),
        ({"vocab.txt": "[UNK]\nA"}, r"has none of the tokens \[CLS\], <cls>, <s>"),
        ({"tokenizer.json": "{}"}, "no tokenizer can be read from it"),
    ],
)
def test_says_what_is_wrong_with_a_folder(tmp_path, files, text):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(WeightsError, match=text):
        tokenizer.load(str(tmp_path))


@pytest.mark.parametrize(
    ("files", "longest"),
    [
        ({}, 0),
        ({"tokenizer_config.json": {"model_max_length": 512}}, 512),
        ({"tokenizer_config.json": {"model_max_length": 1e30}}, 0),
        (
            {"sentence_bert_config.json": {"max_seq_length": 256}, "tokenizer_config.json": {"model_max_length": 512}},
            256,
        ),
        (
            {
                "config.json": {
                    "hidden_size": 8,
                    "num_hidden_layers": 1,
                    "vocab_size": 9,
                    "max_position_embeddings": 128,
                }
            },
            128,
        ),
    ],
)
def test_longest_is_what_the_files_say(tmp_path, files, longest):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert tokenizer.longest_of(str(tmp_path)) == longest


# --- vocabularies of ESM's kind --------------------------------------------------------------------------

ESM_2 = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
DNA = ["<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>", *map("".join, product("ATCG", repeat=6)), *"ATCGN"]


def esm_folder(folder, tokens, **more):
    """As transformers saves such a tokenizer; gives the folder back."""
    from transformers import EsmTokenizer

    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens))
    EsmTokenizer(str(folder / "vocab.txt"), **more).save_pretrained(folder)
    assert not (folder / "tokenizer.json").exists()
    (folder / "config.json").write_text('{"model_type": "esm"}')
    return str(folder)


@pytest.fixture(scope="module")
def esm(tmp_path_factory):
    """Ours and theirs by the name of the vocabulary."""
    from transformers import AutoTokenizer

    def both(tokens, **more):
        folder = esm_folder(tmp_path_factory.mktemp("esm"), tokens, **more)
        return tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)

    without_letters = [token for token in DNA if len(token) > 1]
    return {
        "ESM-2": both(ESM_2),
        "DNA": both(DNA, eos_token=None),
        "DNA with an end": both(DNA),
        "six-mers alone": both(without_letters, eos_token=None),
        "of two lengths": both([*without_letters, "AC", "GTA", "TAC", "A"]),
    }


@pytest.mark.parametrize("name", ["ESM-2", "DNA", "DNA with an end", "six-mers alone", "of two lengths"])
@given(st.text("ACGT", max_size=40) | st.text("ACGTNJ acgt\n", max_size=40) | st.text("LAGVSERX.-JB<", max_size=20))
@settings(deadline=None, max_examples=60)
def test_ids_are_those_of_the_esm_tokenizer(esm, name, text):
    ours, theirs = esm[name]
    assert ours.encode(text).ids == theirs(text)["input_ids"]


def test_six_mers_run_on_over_unknown_bases_and_odd_ends(esm):
    ours, _ = esm["DNA"]
    assert ours.encode("ATTACGGNATTACGGAC").tokens == [
        *["<cls>", "ATTACG", "G", "N", "ATTACG", "G", "A", "C"],
    ]
    assert tokenizer.frame_of(ours) == [DNA.index("<cls>")]


def test_special_tokens_of_esm_are_those_of_its_config(tmp_path):
    folder = esm_folder(tmp_path, DNA, eos_token=None)
    one = tokenizer.tokenizer_hashes(folder)
    assert [side.tolist() for side in tokenizer.sides_of(folder)] == [[3], []]
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<eos>"}}')
    assert [side.tolist() for side in tokenizer.sides_of(folder)] == [[3], [4]]
    assert tokenizer.tokenizer_hashes(folder) != one


def test_special_tokens_of_esm_must_be_in_the_vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(token for token in DNA if token != "<eos>"))
    with pytest.raises(WeightsError, match="the vocabulary has none of the tokens <eos>; one of them was needed"):
        tokenizer.load(str(tmp_path))
