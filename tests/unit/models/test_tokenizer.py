import json

import pytest

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
