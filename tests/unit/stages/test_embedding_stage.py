import subprocess
import sys

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.core.batch import to_numpy
from penstock.core.dataset import existing
from penstock.core.nouns import Pipeline, Record, Step, Unit
from penstock.errors import RowErrors, SchemaError, WeightsError
from penstock.models.embedding import Text, architecture_of, embedded, loaded
from penstock.runners.inline import Inline
from penstock.sinks.hdf5 import Hdf5
from penstock.sinks.parquet import Parquet
from penstock.sources.text import Csv
from penstock.stages.embedding import Embedding
from penstock.stages.tokens import Tokens
from penstock.tables.making import save
from penstock.testing.models import tiny_encoder

FIRST, LAST = 2, 3
LENGTHS = (7, 1, 60, 12, 7, 33, 2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(tiny_encoder(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    return [[FIRST, *random.integers(5, 31, size=n).tolist(), LAST] for n in LENGTHS]


def table(rows, **more):
    names = {"name": [f"r{row}" for row in range(len(rows))]}
    lists = {key: pa.array(values, pa.list_(pa.int32())) for key, values in {"input_ids": rows, **more}.items()}
    return pa.table(names | lists)


def through(stage, batch):
    with stage.open() as transform:
        result = transform(batch)
    assert result.schema.equals(stage.schema(batch.schema))
    return result


def refused(stage, batch):
    with stage.open() as transform, pytest.raises(RowErrors) as caught:
        transform(batch)
    assert caught.value.good.schema.equals(stage.schema(batch.schema))
    return caught.value


def network(folder):
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()


def one_at_a_time(folder, rows):
    """By the model's own module, without padding."""
    import torch

    module = network(folder).embeddings
    with torch.inference_mode():
        return [module(torch.tensor([row]))[0].numpy() for row in rows]


def test_each_token_gets_the_vector_of_the_models_own_module(tiny, rows):
    found = through(Embedding(tiny), table(rows))["embedding"].to_pylist()
    for vectors, expected in zip(found, one_at_a_time(tiny, rows), strict=True):
        np.testing.assert_array_equal(np.array(vectors, np.float32), expected)


def test_padded_rows_are_zero_behind_their_last_token(tiny, rows):
    found = through(Embedding(tiny, length=64, dtype="float16"), table(rows))
    vectors, mask = to_numpy(found["embedding"]), to_numpy(found["mask"])
    assert (vectors.shape, vectors.dtype, mask.shape, mask.dtype) == ((7, 64, 32), np.float16, (7, 64), np.uint8)
    assert mask.sum(1).tolist() == [n + 2 for n in LENGTHS]
    for row, expected in enumerate(one_at_a_time(tiny, rows)):
        np.testing.assert_array_equal(vectors[row, : len(expected)], expected.astype(np.float16))
        assert not vectors[row, len(expected) :].any()
        assert mask[row].tolist() == [1] * len(expected) + [0] * (64 - len(expected))


def test_padded_inputs_embeds_and_mask_give_the_models_output(tiny, rows):
    import torch

    found = through(Embedding(tiny, part="inputs_embeds", length=62), table(rows))
    given = torch.from_numpy(to_numpy(found["embedding"]).copy())
    mask = torch.from_numpy(to_numpy(found["mask"]).astype(np.int64))
    ids = torch.tensor([row + [0] * (62 - len(row)) for row in rows])
    model = network(tiny)
    with torch.inference_mode():
        ours = model(inputs_embeds=given, attention_mask=mask).last_hidden_state
        theirs = model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.equal(ours[mask == 1], theirs[mask == 1])


def test_the_models_own_rows_may_lie_in_a_table_of_penstock(tiny, rows, tmp_path):
    own = network(tiny).embeddings.word_embeddings.weight.detach().numpy()
    uri = save(str(tmp_path / "rows"), own, shard_bytes=400).uri
    assert through(Embedding(tiny, table=uri), table(rows)).equals(through(Embedding(tiny), table(rows)))
    other = save(str(tmp_path / "other"), 2 * own).uri
    found = through(Embedding(tiny, part="tokens", table=other), table(rows))["embedding"].to_pylist()
    assert np.array_equal(found[0], 2 * own[rows[0]])
    assert Embedding(tiny, table=uri).identity() != Embedding(tiny, table=other).identity()


def test_a_table_that_does_not_fit_the_model_is_refused(tiny, rows, tmp_path):
    small = save(str(tmp_path / "small"), np.ones((5, 8), np.float32)).uri
    with pytest.raises(SchemaError, match=r"has 8 numbers a row and takes ids below 5; .* needs \d+, and ids below"):
        Embedding(tiny, table=small).schema(table(rows).schema)


def test_tokens_are_rows_of_the_table_alone(tiny, rows):
    words = network(tiny).embeddings.word_embeddings.weight.detach().numpy()
    found = through(Embedding(tiny, part="tokens"), table(rows))["embedding"].to_pylist()
    for vectors, row in zip(found, rows, strict=True):
        np.testing.assert_array_equal(np.array(vectors, np.float32), words[row])


def test_types_come_from_a_column(tiny, rows):
    import torch

    kinds = [[int(step > 3) for step in range(len(row))] for row in rows]
    module = network(tiny).embeddings
    with torch.inference_mode():
        expected = [
            module(torch.tensor([row]), token_type_ids=torch.tensor([kind]))[0].numpy()
            for row, kind in zip(rows, kinds, strict=True)
        ]
    found = through(Embedding(tiny, types="kinds"), table(rows, kinds=kinds))["embedding"].to_pylist()
    for vectors, one in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.array(vectors, np.float32), one)


# --- windows ---------------------------------------------------------------------------------------------


def test_each_window_is_a_row_with_special_tokens_and_positions_of_its_own(tiny, rows):
    found = through(Embedding(tiny, window=20, overlap=5), table(rows))
    plain = through(Embedding(tiny), table(found["input_ids"].to_pylist()))
    assert found["embedding"].equals(plain["embedding"])
    lines = found.drop_columns(["embedding"]).to_pylist()
    assert [line["name"] for line in lines] == ["r0", "r1", *["r2"] * 5, "r3", "r4", *["r5"] * 3, "r6"]
    assert [(line["window"], line["start"]) for line in lines if line["name"] == "r2"] == [
        (number, 13 * number) for number in range(5)
    ]
    for line in lines:
        ids, row = line["input_ids"], rows[int(line["name"][1:])]
        assert len(ids) <= 20
        assert (ids[0], ids[-1]) == (FIRST, LAST)
        assert ids[1:-1] == row[line["start"] + 1 : line["start"] + len(ids) - 1]


def test_windows_are_those_of_the_tokenizers_library(tiny):
    from penstock.models import tokenizer

    live = tokenizer.load(tiny)
    live.enable_truncation(12, stride=3)
    texts = ["MKTAYIAKQR" * 4, "MK", "GAVLIGAVLIGAVLIGAVLI"]
    expected = [e.ids for text in texts for first in [live.encode(text)] for e in (first, *first.overflowing)]
    whole = through(Tokens(tiny), pa.table({"sequence": texts}))
    assert through(Embedding(tiny, window=12, overlap=3), whole)["input_ids"].to_pylist() == expected


def test_cut_takes_all_tokens_as_they_come_and_needs_no_tokenizer(tiny, rows, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(f"{tiny}/{name}")
    found = through(Embedding(str(tmp_path), window=8, special="cut"), table(rows[:1]))
    assert found["input_ids"].to_pylist() == [rows[0][:8], rows[0][8:]]
    with pytest.raises(WeightsError, match=r"neither tokenizer.json nor vocab.txt .*; or set special = 'cut'"):
        Embedding(str(tmp_path), window=8).schema(table(rows).schema)


def test_only_rows_with_special_tokens_at_both_ends_get_them_again(tiny):
    bare, framed, begun, ended = [9] * 10, [FIRST, *[9] * 10, LAST], [FIRST, *[9] * 10], [*[9] * 10, LAST]
    found = through(Embedding(tiny, window=8), table([bare, framed, begun, ended]))
    assert found["input_ids"].to_pylist() == [
        *(bare[:8], bare[8:]),
        *([FIRST, *[9] * 6, LAST], [FIRST, *[9] * 4, LAST]),
        *(begun[:8], begun[8:]),
        *(ended[:8], ended[8:]),
    ]


def test_types_follow_their_tokens_into_windows(tiny, rows):
    kinds = [[0] * 5 + [1] * (len(row) - 5) for row in rows[2:4]]
    found = through(Embedding(tiny, window=10, overlap=2, types="kinds"), table(rows[2:4], kinds=kinds))
    plain = through(
        Embedding(tiny, types="kinds"), table(found["input_ids"].to_pylist(), kinds=found["kinds"].to_pylist())
    )
    assert found["embedding"].equals(plain["embedding"])
    assert found["kinds"].to_pylist()[0] == [0] * 5 + [1] * 5
    assert found["kinds"].to_pylist()[1] == [0] + [1] * 9


def test_padded_windows_cover_a_row_longer_than_the_model_takes(tiny):
    letters = np.random.default_rng(1).integers(5, 31, size=500).tolist()
    found = through(Embedding(tiny, window=64, overlap=16, length=64), table([[FIRST, *letters, LAST]]))
    seen = {}
    for line in found.select(["input_ids", "start"]).to_pylist():
        for step, token in enumerate(line["input_ids"][1:-1], 1):
            assert seen.setdefault(line["start"] + step, token) == token
    assert [seen[place] for place in range(1, 501)] == letters
    assert to_numpy(found["mask"]).sum(1).tolist() == [len(ids) for ids in found["input_ids"].to_pylist()]


# --- refusals --------------------------------------------------------------------------------------------


def test_says_of_each_bad_row_what_is_wrong(tiny):
    batch = table([[2, 5, 3], None, [], [2, 31, -1, 3], [5] * 65, [5, None]])
    found = refused(Embedding(tiny), batch)
    assert found.bad.equals(pa.concat_tables([batch.slice(1)]))
    assert found.good["name"].to_pylist() == ["r0"]
    assert found.reasons == [
        "input_ids has no tokens",
        "input_ids has no tokens",
        "input_ids has 2 ids outside 0 to 30: it is another model's",
        "input_ids has 65 tokens, 64 fit; set window = 64",
        "input_ids has 1 ids outside 0 to 30: it is another model's",
    ]


def test_a_row_longer_than_the_tensor_is_refused(tiny):
    found = refused(Embedding(tiny, length=4), table([[5] * 4, [5] * 5]))
    assert found.reasons == ["input_ids has 5 tokens, 4 fit; set window = 4"]


def test_types_that_do_not_fit_their_tokens_are_refused(tiny):
    batch = table([[5, 6], [5, 6], [5, 6], [5, 6], [5, 6]], kinds=[[0, 1], [0], [0, 1, 1], [0, 2], None])
    assert refused(Embedding(tiny, types="kinds"), batch).reasons == [
        "kinds has 1 types outside 0 to 1, or too few",
        "kinds has more types than input_ids has tokens",
        "kinds has 1 types outside 0 to 1, or too few",
        "kinds has 2 types outside 0 to 1, or too few",
    ]


def test_masks_alone_are_refused_where_the_model_drops_them(tmp_path):
    from transformers import EsmConfig, EsmModel

    sizes = {"vocab_size": 33, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = EsmConfig(**sizes, intermediate_size=8, pad_token_id=1, mask_token_id=32, token_dropout=True)
    EsmModel(config).save_pretrained(tmp_path)
    found = refused(Embedding(str(tmp_path)), table([[32, 32], [0, 32, 2]]))
    assert found.reasons == ["input_ids has <mask> alone, of which the model makes no number"]
    assert np.isfinite(np.array(found.good["embedding"][0].as_py())).all()


def test_every_row_bad_leaves_an_empty_batch(tiny):
    for stage in (Embedding(tiny), Embedding(tiny, window=8), Embedding(tiny, length=8)):
        assert refused(stage, table([[], None])).good.num_rows == 0


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"overlap": 8, "window": 8}, "overlap is 8; less than the window of 8 tokens was needed"),
        ({"overlap": 1}, "overlap is 1; less than the window of 0 tokens"),
        ({"window": 9, "length": 8}, "a window of 9 tokens does not fit in length = 8; lower window"),
        ({"length": -1}, "must not be negative"),
    ],
)
def test_refuses_fields_that_contradict_each_other(fields, told):
    with pytest.raises(ValueError, match=told):
        Embedding("minilm", **fields)


def test_refuses_what_the_model_cannot_do_before_anything_runs(tiny, tmp_path):
    from transformers import GPT2Config, GPT2Model

    given = table([[5]]).schema
    for stage in (Embedding(tiny, window=65), Embedding(tiny, length=65)):
        with pytest.raises(SchemaError, match="takes 64 tokens; lower window and length to that or less"):
            stage.schema(given)
    with pytest.raises(SchemaError, match="needs a column 'kinds'"):
        Embedding(tiny, types="kinds").schema(given)
    GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    with pytest.raises(SchemaError, match="has no token types; leave out types = 'input_ids'"):
        Embedding(str(tmp_path), types="input_ids").schema(given)
    stage = Embedding(tiny, window=5, overlap=3)
    with (
        pytest.raises(SchemaError, match="a window of 5 tokens holds 2 special ones and 3 shared ones, and no others"),
        stage.open(),
    ):
        pass


# --- with other parts ------------------------------------------------------------------------------------


@pytest.fixture
def published(tiny, tmp_path):
    """Write windows of three sequences by a sink, through the whole line."""
    (tmp_path / "in.csv").write_text("sequence\n" + "\n".join(["MKTAYIAKQR" * 9, "GAVLI", "MKV"]) + "\n")

    def line(sink, **fields):
        steps = (Step(Tokens(tiny, max_length=1000)), Step(Embedding(tiny, **fields)))
        Inline().run(Pipeline("line", Csv(str(tmp_path / "in.csv"), {"sequence": "string"}), sink, steps))
        return existing(sink.uri)

    return line


def expected_windows(tiny, length):
    found = architecture_of(tiny)
    letters = {letter: number for number, letter in enumerate("ACDEFGHIKLMNPQRSTVWYXBZJUO", 5)}
    rows = [
        [FIRST, *(letters[letter] for letter in sequence[start : start + length - 2]), LAST]
        for sequence in ("MKTAYIAKQR" * 9, "GAVLI", "MKV")
        for start in range(0, len(sequence), length - 2)
    ]
    weights = loaded(tiny, found)
    return [embedded(found, weights, Text(np.array(row), np.array([len(row)]))) for row in rows]


def test_solvers_read_padded_windows_and_masks_from_hdf5(tiny, published, tmp_path):
    sink = Hdf5(str(tmp_path / "out"), columns=("embedding", "mask", "window", "start"))
    assert published(sink, window=32, length=32).rows == 5
    expected = expected_windows(tiny, 32)
    with h5py.File(tmp_path / "out/index.h5") as file:
        assert file["embedding"].shape == (5, 32, 32)
        assert file["window"][:].tolist() == [0, 1, 2, 0, 0]
        assert file["start"][:].tolist() == [0, 30, 60, 0, 0]
        for vectors, mask, one in zip(file["embedding"][:], file["mask"][:], expected, strict=True):
            np.testing.assert_array_equal(vectors[mask == 1], one)


def test_parquet_keeps_ragged_and_padded_vectors(tiny, published, tmp_path):
    expected = expected_windows(tiny, 32)
    ragged = published(Parquet(str(tmp_path / "ragged")), window=32)
    padded = published(Parquet(str(tmp_path / "padded")), window=32, length=40)
    found = pq.read_table(tmp_path / "ragged" / ragged.parts()["path"][0].as_py())
    full = pq.read_table(tmp_path / "padded" / padded.parts()["path"][0].as_py())
    cube, mask = to_numpy(full["embedding"]), to_numpy(full["mask"])
    for row, one in enumerate(expected):
        np.testing.assert_array_equal(np.array(found["embedding"][row].as_py(), np.float32), one)
        np.testing.assert_array_equal(cube[row][mask[row] == 1], one)


def test_ragged_vectors_are_refused_by_hdf5_with_a_way_out(tiny, tmp_path):
    schema = Embedding(tiny).schema(table([[5]]).schema)
    with pytest.raises(SchemaError, match="pad ragged lists"):
        Hdf5(str(tmp_path), columns=("embedding",)).schema(schema)


def test_a_part_is_the_same_bytes_each_time(tiny, rows, tmp_path):
    unit, sink = Unit.of("memory", "1", 0, 7), Parquet(str(tmp_path))
    parts = {Record(unit.key, sink.write(unit, through(Embedding(tiny, threads=n), table(rows)))).part for n in (1, 2)}
    assert len(parts) == 1


def test_the_schema_is_known_without_torch(tiny):
    code = (
        "import sys, pyarrow as pa\n"
        "from penstock.stages.embedding import Embedding\n"
        f"stage = Embedding({tiny!r}, window=8)\n"
        "print(stage.schema(pa.schema({'input_ids': pa.list_(pa.int32())})).names, len(stage.identity()))\n"
        "assert not {'torch', 'transformers', 'safetensors', 'tokenizers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "['input_ids', 'embedding', 'window', 'start'] 7\n", done.stderr
