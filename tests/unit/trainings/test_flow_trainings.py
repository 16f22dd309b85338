"""Generators of flow learned by one worker and by teams of threads, stopped anywhere and gone on with."""

import dataclasses
import json
import threading
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from penstock.core.batch import tensor_column, to_numpy
from penstock.core.dataset import existing
from penstock.core.nouns import Fit, Pipeline, Record, Step, Training, Unit
from penstock.core.plan import Resources, check
from penstock.core.spec import Spec, dumps, load, loads
from penstock.core.verify import verify
from penstock.errors import PlanError, SchemaError, UnitError
from penstock.models import generator, stream
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.sources.dataset import Dataset
from penstock.stages.generate import Generate
from penstock.trainings import snapshots
from penstock.trainings.alone import Alone
from penstock.trainings.psi_stylegan import PsiStylegan
from penstock.trainings.psi_vae import PsiVae

ROWS, N = 34, 32
EXAMPLE = Path(__file__).parents[3] / "examples" / "flow"


def table_of(rows, n=N, seed=0):
    """Eddies with a steep spectrum, at two viscosities, and the same a step later."""
    random = np.random.default_rng(seed)
    psi = stream.bounded(torch.from_numpy(random.standard_normal((rows, n, n))))
    gains = (torch.arange(1, stream.shells(n) + 1) ** -2.0).expand(rows, -1)
    flows = stream.velocity(stream.filtered(psi, gains)).float().numpy() * 3
    columns = {
        "velocity": tensor_column(flows),
        "later": tensor_column(flows * np.float32(0.99)),
        "viscosity": pa.array(np.where(np.arange(rows) % 2, 0.01, 0.02)),
    }
    return pa.table(columns)


def published(folder, table):
    sink, records = Parquet(str(folder)), []
    for start, stop in pairwise((0, table.num_rows // 2, table.num_rows)):
        unit = Unit.of("rows", "1", start, stop)
        records.append((unit, Record(unit.key, sink.write(unit, table.slice(start, stop - start)))))
    schema = table.schema.serialize().to_pybytes().hex()
    sink.commit(lambda: iter(records), {"fingerprint": "rows", "schema": schema})
    return sink.uri


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    return published(tmp_path_factory.mktemp("flows"), table_of(ROWS))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def vae(flows, folder, **more):
    given = {"width": 8, "latent": 4, "components": 2, "samples": 8, "epochs": 2, "batch_rows": 8, **more}
    return PsiVae(flows, str(folder), **given)


def stylegan(flows, folder, **more):
    given = {"width": 8, "latent": 4, "layers": 1, "samples": 8, "epochs": 2, "batch_rows": 8, **more}
    return PsiStylegan(flows, str(folder), **given)


BOTH = pytest.mark.parametrize("make", [vae, stylegan])


class Mortal(Alone):
    """A team of one that is stopped when it meets for the n-th time."""

    def __init__(self, patience):
        super().__init__()
        object.__setattr__(self, "patience", [patience])

    def gather(self, value):
        self.patience[0] -= 1
        if self.patience[0] < 0:
            raise InterruptedError
        return [value]


class Member:
    """One thread of a team."""

    def __init__(self, rank, size, barrier, table):
        self.rank, self.size, self.barrier, self.table = rank, size, barrier, table
        self.heard = []

    def _met(self, value):
        self.table[self.rank] = value
        self.barrier.wait(60)
        found = list(self.table)
        self.barrier.wait(60)
        return found

    def exchange(self, sent):
        return [parts[self.rank].copy() for parts in self._met(sent)]

    def gather(self, value):
        return self._met(value)

    def report(self, metrics):
        self.heard.append(metrics)


def together(size, work):
    barrier, table, errors = threading.Barrier(size), [None] * size, []
    members = [Member(rank, size, barrier, table) for rank in range(size)]

    def one(member):
        try:
            work(member)
        except Exception as error:
            barrier.abort()
            errors.append(error)

    threads = [threading.Thread(target=one, args=(member,)) for member in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    return members


def weights(uri):
    return (existing(uri).parts()["sha256"][0].as_py(), generator.hashes_of(uri)["model.safetensors"])


@BOTH
def test_it_is_a_training_that_makes_a_model_for_the_generate_step(make, flows, tmp_path):
    training, heard = make(flows, tmp_path / "model", publish_minutes=0), []
    assert isinstance(training, Training)
    Inline().train(Fit("lesson", training), heard.append)
    assert training.done()
    assert {"epoch", "loss"} <= set(heard[-1])
    assert all(np.isfinite(value) for value in heard[-1].values())
    assert verify(training.uri).schema == training.schema(existing(flows).schema)
    assert [path.name for path in (tmp_path / "model" / "training" / "parts").iterdir()] == []
    card = (tmp_path / "model" / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "viscosities from 0.01 to 0.02" in card
    with Generate(training.uri, device="cpu").open() as transform:
        found = transform(pa.table({"seed": [1, 2], "viscosity": [0.01, 0.02]}))
    assert to_numpy(found["velocity"]).shape == (2, 2, N, N)


@BOTH
@pytest.mark.parametrize("patience", [4, 9])
def test_a_training_that_is_stopped_anywhere_ends_with_the_bits_of_one_that_was_not(make, flows, tmp_path, patience):
    whole, stopped = (make(flows, tmp_path / name, publish_minutes=0) for name in ("whole", "stopped"))
    whole.train(Alone())
    with pytest.raises(InterruptedError):
        stopped.train(Mortal(patience))
    assert not stopped.done()
    stopped.train(Alone())
    assert weights(stopped.uri) == weights(whole.uri)
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "stopped")]
    assert histories[0] == histories[1]


@BOTH
def test_a_team_learns_the_same_in_every_worker(make, flows, tmp_path):
    training = make(flows, tmp_path / "model", epochs=1)
    members = together(2, training.train)
    assert training.done()
    assert members[0].heard == members[1].heard
    again = make(flows, tmp_path / "again", epochs=1)
    together(2, again.train)
    assert weights(again.uri) == weights(training.uri)


def test_gradients_are_averaged_over_the_team():
    found = {}

    def work(member):
        one, other = torch.zeros(3, 5), torch.zeros(2)
        one.grad = torch.full((3, 5), float(member.rank))
        snapshots.averaged(member, [one, other])
        found[member.rank] = (one.grad, other.grad)

    together(3, work)
    for rank in range(3):
        torch.testing.assert_close(found[rank][0], torch.ones(3, 5))
        torch.testing.assert_close(found[rank][1], torch.zeros(2))


def test_each_row_is_seen_once_an_epoch_by_one_worker(flows, tmp_path):
    seen = []

    class Watcher:
        def step(self, rows, number, share):
            seen.append(rows.tolist())
            return {"loss": 1.0}

        def asked(self):
            return {}

        def state(self):
            return {}

    def work(member):
        course = snapshots.Course(vae(flows, tmp_path, batch_rows=4), member, Watcher(), 32)
        course._finish = lambda: None
        course.run()

    together(2, work)
    assert len(seen) == 2 * 2 * 4
    for epoch in (seen[:8], seen[8:]):
        assert sorted(np.concatenate(epoch)) == list(range(32))


def test_what_is_done_is_done_until_data_or_settings_change(flows, tmp_path):
    training = vae(flows, tmp_path / "model", epochs=1)
    training.train(Alone())
    assert vae(flows, tmp_path / "model", epochs=1, publish_minutes=1.0, device="cpu").done()
    assert not vae(flows, tmp_path / "model", epochs=1, seed=1).done()
    assert not vae(published(tmp_path / "other", table_of(ROWS, seed=3)), tmp_path / "model", epochs=1).done()


def test_the_autoencoder_learns_in_one_frame_and_needs_no_pairs(tmp_path):
    alone = published(tmp_path / "alone", table_of(ROWS).drop_columns(["later"]))
    heard = []
    vae(alone, tmp_path / "model", epochs=1).train(Alone(heard.append))
    assert "held_out_residual" not in heard[-1]


def test_rows_are_read_as_stream_functions_and_the_last_ones_are_held_out(flows):
    data = snapshots.Snapshots.read(flows, "velocity", "later")
    assert (len(data.psi), data.learned) == (ROWS, ROWS - 2)
    torch.testing.assert_close(data.later, data.psi * 0.99, rtol=1e-4, atol=1e-5)
    config = data.config("psi_vae", {"width": 8, "latent": 4, "layers": 0, "wavenumber": 4}, "")
    flow = snapshots.flow_of(data.psi[: data.learned], config)
    torch.testing.assert_close(flow[:, :2].square().mean(), torch.tensor(1.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(flow[:, 2].square().mean(), torch.tensor(1.0), rtol=1e-4, atol=0)
    assert config.viscosities == (0.01, 0.02)


def test_rows_that_cannot_be_learned_from_are_refused(tmp_path):
    few = published(tmp_path / "few", table_of(6))
    with pytest.raises(UnitError, match="6 rows; 8 or more were needed"):
        vae(few, tmp_path / "model").train(Alone())
    table = table_of(10)
    bad = table.set_column(2, "viscosity", pa.array([0.0] * 10))
    with pytest.raises(UnitError, match=r"a viscosity of 0.0; numbers above 0 were needed"):
        vae(published(tmp_path / "zero", bad), tmp_path / "model").train(Alone())
    velocities = to_numpy(table["velocity"]).copy()
    velocities[4, 0, 3, 3] = np.nan
    bad = table.set_column(0, "velocity", tensor_column(velocities))
    with pytest.raises(UnitError, match="'velocity' has numbers that are not finite in rows 0 and after"):
        vae(published(tmp_path / "nan", bad), tmp_path / "model").train(Alone())


@BOTH
def test_columns_that_are_no_plane_flow_are_refused(make):
    training = make("/data", "/model")

    def schema(kind, viscosity=pa.float64()):  # noqa: B008
        return pa.schema([("velocity", kind), ("viscosity", viscosity)])

    def tensor(*shape):
        return pa.fixed_shape_tensor(pa.float32(), shape)

    with pytest.raises(SchemaError, match=r"needs column 'velocity' as float32\[2, n, n\], u and v; it is"):
        training.schema(schema(tensor(3, 32, 32)))
    with pytest.raises(SchemaError, match="have 48 x 48 points; a power of 2, 32 or more, was needed"):
        training.schema(schema(tensor(2, 48, 48)))
    with pytest.raises(SchemaError, match="needs column 'viscosity' as double; it is float"):
        training.schema(schema(tensor(2, 32, 32), pa.float32()))
    with pytest.raises(SchemaError, match="half a period of a forcing with wavenumber 5 is no whole number"):
        make("/data", "/model", wavenumber=5).schema(schema(tensor(2, 32, 32)))


@pytest.mark.parametrize("options", [{"epochs": 0}, {"batch_rows": 0}, {"samples": 0}, {"width": 0}, {"wavenumber": 0}])
@BOTH
def test_settings_that_make_no_sense_are_refused(make, options):
    with pytest.raises(ValueError, match="must be"):
        make("/data", "/model", **options)


def test_a_gpu_that_is_not_there_is_refused(flows, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PlanError, match="torch sees no GPU here; give the training's place gpus = 1"):
        vae(flows, tmp_path, device="cuda").train(Alone())


@pytest.mark.parametrize(("name", "size"), [("train", 64), ("train_gpu", 128), ("train_gpu", 256)])
def test_the_example_files_are_understood(name, size):
    spec = load(EXAMPLE / f"{name}.toml")
    kind = pa.fixed_shape_tensor(pa.float32(), (2, size, size))
    given = pa.schema([("velocity", kind), ("viscosity", pa.float64())])
    assert [fit.training.schema(given).field("velocity").type for fit in spec.fits] == [kind, kind]


@pytest.mark.parametrize("at", [0, 1], ids=["psi_vae128", "psi_stylegan128"])
def test_the_networks_of_the_gpu_file_learn_a_step_on_a_cpu(at, tmp_path):
    """Their widths as they are in the file; fewer rows in a step, since this is for GPUs, which no test has here."""
    training = load(EXAMPLE / "train_gpu.toml").fits[at].training
    assert (training.device, training.width) == ("cuda", 32)
    small = {"source": published(tmp_path / "flows", table_of(9, n=128)), "uri": str(tmp_path / "model")}
    training = dataclasses.replace(training, **small, device="cpu", samples=2, batch_rows=2)
    learner = import_module(type(training).__module__)._Learner(training, Alone())
    assert learner.config.size == 128
    weights = learner.weights if at == 0 else {**learner.maker, **learner.judge}
    before = {name: value.detach().clone() for name, value in weights.items()}
    told = learner.step(np.arange(2), 0, 0.5)
    assert all(np.isfinite(float(value)) for value in told.values())
    changed = [name for name, value in weights.items() if not torch.equal(value.detach(), before[name])]
    assert len(changed) > 0.9 * len(weights), "all layers learn"
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_a_line_that_generates_with_the_model_is_planned_before_it_is_trained_and_runs_after(flows, tmp_path):
    training = vae(flows, tmp_path / "model", epochs=1)
    seeds = published(tmp_path / "seeds", pa.table({"seed": np.arange(4)}))
    line = Pipeline("fields", Dataset(seeds), Parquet(str(tmp_path / "fields")), (Step(Generate(training.uri)),))
    spec = Spec((line,), fits=(Fit("lesson", training),))
    assert [one.name for one in spec.lines] == ["lesson", "fields"]
    assert loads(dumps(spec)) == spec
    Inline().train(Fit("lesson", training), lambda metrics: None)
    check(line, Resources(4, 0, 1 << 34, "here"))
    report = Inline().run(line)
    assert report.rows == 4
