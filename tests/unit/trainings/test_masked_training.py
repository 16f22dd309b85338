"""Masked language modelling by one worker: what is hidden, what is learned, and how a stopped training goes on."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.core import plugins
from penstock.core.dataset import existing, newest, promised, versions
from penstock.core.nouns import Fit, Pipeline, Record, Step, Training, Unit
from penstock.core.plan import Resources, check
from penstock.core.reading import read_table
from penstock.core.spec import Spec, dumps, loads
from penstock.core.storage import join
from penstock.core.verify import verify
from penstock.errors import RunError, SchemaError, UnitError, WeightsError
from penstock.models import tokenizer
from penstock.models.masked import IGNORED, Fresh, hidden, network_of, words_of
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.sources.dataset import Dataset
from penstock.stages.encode import Encode
from penstock.testing.models import tiny_encoder
from penstock.trainings.alone import Alone
from penstock.trainings.masked import Masked

ROWS = 48
DNA = Fresh("dna", width=16, layers=1, heads=2, longest=64)


def published(folder, lists):
    """A dataset of token ids in three parts."""
    table, sink = pa.table({"input_ids": pa.array(lists, pa.list_(pa.int32()))}), Parquet(str(folder))
    cuts = pairwise(np.linspace(0, len(lists), 4).astype(int).tolist())
    records = []
    for start, stop in cuts:
        unit = Unit.of("lists", "1", start, stop)
        records.append((unit, Record(unit.key, sink.write(unit, table.slice(start, stop - start)))))
    schema = table.schema.serialize().to_pybytes().hex()
    sink.commit(lambda: iter(records), {"fingerprint": "lists", "schema": schema})
    return sink.uri


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small are faster so, and much faster where others work too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def genes(tmp_path_factory):
    """Rows of one base each, so that the others say what a hidden one is."""
    random = np.random.default_rng(0)
    rows = [[2, *[5 + random.integers(4)] * random.integers(10, 20), 3] for _ in range(ROWS)]
    return published(tmp_path_factory.mktemp("genes"), rows)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return str(tiny_encoder(tmp_path_factory.mktemp("tiny")))


def training(genes, folder, name="encoder", **more):
    given = {"model": DNA, "rate": 0.01, "epochs": 2, "batch_tokens": 128, "block_rows": 16, **more}
    return Masked(genes, str(folder / name), **given)


class Stopped(Exception):
    pass


class Mortal(Alone):
    """A team of one that is stopped when it meets for the n-th time."""

    def __init__(self, patience):
        super().__init__()
        object.__setattr__(self, "left", [patience])

    def gather(self, value):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise Stopped
        return [value]


def weights(uri):
    from safetensors.numpy import load_file

    return load_file(join(uri, "model.safetensors"))


def equal(one, other):
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


# --- what is hidden --------------------------------------------------------------------------------------


def test_of_what_is_asked_eight_tenths_are_hidden_one_replaced_and_one_left():
    words = words_of(DNA)
    ids = np.random.default_rng(0).choice(words.plain, size=(200, 500))
    seen, wanted = hidden(ids, words, 0.15, np.random.default_rng(1))
    asked = wanted != IGNORED
    assert asked.mean() == pytest.approx(0.15, abs=0.005)
    assert (wanted[asked] == ids[asked]).all()
    assert (seen[~asked] == ids[~asked]).all()
    covered = seen[asked] == words.mask
    left = seen[asked] == ids[asked]
    assert covered.mean() == pytest.approx(0.8, abs=0.02)
    assert left.mean() == pytest.approx(0.1 + 0.1 / len(words.plain), abs=0.02)
    assert set(seen[asked][~covered]) <= {*words.plain}


def test_special_tokens_and_filling_are_never_asked_for():
    words = words_of(DNA)
    ids = np.array([[2, 5, 6, 7, 8, 3, -1, -1], [2, 1, 4, 0, 5, 5, 5, 3]])
    for seed in range(200):
        seen, wanted = hidden(ids, words, 0.9, np.random.default_rng(seed))
        fixed = np.isin(ids, [-1, 0, 1, 2, 3, 4])
        assert (wanted[fixed] == IGNORED).all()
        assert (seen[fixed] == ids[fixed]).all()


def test_the_same_seed_hides_the_same():
    words, ids = words_of(DNA), np.full((9, 9), 5)
    one, same, other = (hidden(ids, words, 0.5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one[0] == same[0]).all()
    assert (one[1] != other[1]).any()


def test_a_vocabulary_without_a_mask_is_refused(tmp_path):
    folder = tiny_encoder(tmp_path)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nA\nC")
    with pytest.raises(WeightsError, match=r"has neither \[MASK\] nor <mask>, one of them was needed"):
        words_of(str(folder))


# --- learning --------------------------------------------------------------------------------------------


def test_it_is_a_training(genes, tmp_path):
    assert isinstance(training(genes, tmp_path), Training)


def test_it_learns_to_guess_and_says_so(genes, tmp_path):
    lesson, heard = training(genes, tmp_path, epochs=20, batch_tokens=64), []
    lesson.begin()
    lesson.train(Alone(heard.append))
    assert [line["epoch"] for line in heard] == list(range(1, 21))
    assert heard[-1]["loss"] < heard[0]["loss"] / 2
    assert heard[-1]["held_out_loss"] < heard[0]["held_out_loss"] / 2
    assert heard[-1]["accuracy"] > 0.9 > 0.6 > heard[0]["accuracy"]
    assert json.loads((tmp_path / "encoder" / "history.json").read_text()) == heard


def test_the_folder_is_a_model_for_the_encode_step(genes, tmp_path):
    lesson = training(genes, tmp_path, epochs=1)
    lesson.train(Alone())
    assert tokenizer.load(lesson.uri).encode("ACGT").ids == [2, 5, 6, 7, 8, 3]
    batch = pa.table({"input_ids": pa.array([[2, 5, 6, 3]], pa.list_(pa.int32()))})
    with Encode(lesson.uri).open() as encode:
        assert encode(batch).schema.field("embedding").type == lesson.schema(batch.schema).field("embedding").type
    assert verify(lesson.uri).format == "model"


def test_a_finished_training_leaves_no_halves(genes, tmp_path):
    lesson = training(genes, tmp_path, publish_minutes=0)
    lesson.train(Alone())
    assert versions(join(lesson.uri, "training")) == []
    assert list((tmp_path / "encoder" / "training" / "parts").iterdir()) == []
    assert versions(lesson.uri) == [1]


def test_a_model_that_is_there_learns_on_with_its_tokenizer_and_licence(tiny, genes, tmp_path):
    lesson = training(genes, tmp_path, model=tiny, epochs=1, rate=1e-4)
    before = network_of(tiny, 0).bert.state_dict()
    lesson.train(Alone())
    after = network_of(lesson.uri, 0).bert.state_dict()
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert 0 < max(moved.values()) < 0.01, "from its weights on, and not from new ones"
    for name in ("vocab.txt", "README.md"):
        assert (tmp_path / "encoder" / name).read_text() == Path(tiny, name).read_text()


def test_a_model_with_holes_is_refused(genes, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = tiny_encoder(tmp_path / "holes")
    found = load_file(folder / "model.safetensors")
    found.pop("encoder.layer.1.output.dense.weight")
    save_file(found, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"1 weights are missing, the first is encoder\.layer\.1\.output"):
        training(genes, tmp_path, model=str(folder)).train(Alone())


@pytest.mark.parametrize("patience", [3, 11, 37])
def test_a_training_that_is_stopped_anywhere_ends_with_the_bits_of_one_that_was_not(genes, tmp_path, patience):
    whole, stopped = (training(genes, tmp_path, name, publish_minutes=0) for name in ("whole", "stopped"))
    whole.train(Alone())
    with pytest.raises(Stopped):
        stopped.train(Mortal(patience))
    assert not stopped.done()
    stopped.train(Alone())
    assert stopped.done()
    assert equal(weights(whole.uri), weights(stopped.uri))
    histories = [(tmp_path / name / "history.json").read_text() for name in ("whole", "stopped")]
    assert histories[0] == histories[1]


def test_what_is_done_is_done_until_data_model_or_settings_change(tiny, genes, tmp_path):
    lesson = training(genes, tmp_path, epochs=1)
    assert not lesson.done()
    lesson.train(Alone())
    assert lesson.done()
    assert training(genes, tmp_path, epochs=1, publish_minutes=99).done()
    assert not training(genes, tmp_path, epochs=2).done()
    assert not training(genes, tmp_path, epochs=1, model=tiny).done()


def test_rows_that_are_too_long_are_cut_and_empty_ones_left_out(tmp_path):
    lists = [[2, *[5, 6] * 50, 3], [], None, [2, 5, 3]] * 8
    lesson = training(published(tmp_path / "odd", lists), tmp_path, epochs=1)
    lesson.train(Alone())
    assert lesson.done()


def test_ids_of_another_model_are_refused(tmp_path):
    lesson = training(published(tmp_path / "foreign", [[2, 99, 3]] * 8), tmp_path)
    with pytest.raises(UnitError, match="'input_ids' has ids outside 0 to 9, which the model does not know"):
        lesson.train(Alone())


def test_a_team_without_a_way_to_talk_is_refused(genes, tmp_path):
    class Pair(Alone):
        size = 2

    with pytest.raises(RunError, match=r"a team of 2 needs torch.distributed to learn together"):
        training(genes, tmp_path).train(Pair())


# --- in files --------------------------------------------------------------------------------------------


def test_columns_without_ids_are_refused(genes, tmp_path):
    with pytest.raises(SchemaError, match="a column 'input_ids' of lists of token ids; found: text: string"):
        training(genes, tmp_path).schema(pa.schema([("text", pa.string())]))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epochs": 0}, "epochs, batch_tokens and block_rows must be 1 or more"),
        ({"mask_share": 1.0}, "mask_share and rate must lie between 0 and 1; found 1.0"),
        ({"model": "/y"}, "model and uri are both /y; publish what is learned at a place of its own"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        Masked("/x", "/y", **{"model": DNA, **options})


def test_a_network_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="width 10, layers 4, heads 4 and longest 512: all must be above 0"):
        Fresh("dna", width=10)


@pytest.mark.parametrize("model", [DNA, "minilm", "/models/mine"])
def test_it_is_written_to_files_and_read_again(model):
    fit = Fit("encoder", Masked("/ids", "/encoder", model, epochs=7))
    spec = Spec((Pipeline("line", Dataset("/ids"), Parquet("/out"), (Step(Encode("/encoder")),)),), fits=(fit,))
    assert loads(dumps(spec)) == spec
    assert plugins.name_of("trainings", fit.training) == "masked"


def test_a_line_that_encodes_with_the_model_is_planned_before_it_is_trained_and_runs_after(genes, tmp_path):
    lesson = training(genes, tmp_path, epochs=1)
    line = Pipeline("vectors", Dataset(genes), Parquet(str(tmp_path / "vectors")), (Step(Encode(lesson.uri)),))
    spec = Spec((line,), fits=(Fit("encoder", lesson),))
    assert [each.name for each in spec.lines] == ["encoder", "vectors"]
    with promised({lesson.uri: lesson.schema(existing(genes).schema)}):
        plan = check(line, Resources(1, 0, 1 << 40, "here"))
    assert newest(lesson.uri) is None
    Inline().train(spec.fits[0], lambda metrics: None)
    Inline().run(line)
    assert plan.schemas[-1].field("embedding").type == read_table(line.sink.uri).schema.field("embedding").type
