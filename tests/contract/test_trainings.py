"""What every training of the entry points promises, on a small dataset."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from penstock.core import plugins
from penstock.core.batch import tensor_column
from penstock.core.dataset import existing
from penstock.core.nouns import Fit, Pipeline, Record, Training, Unit
from penstock.core.spec import Spec, dumps, loads
from penstock.core.verify import verify
from penstock.errors import SchemaError
from penstock.models.masked import Fresh
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.sources.dataset import Dataset
from penstock.tables.schemes import Exact
from penstock.trainings import history
from penstock.trainings.masked import Masked
from penstock.trainings.psi_stylegan import PsiStylegan
from penstock.trainings.psi_vae import PsiVae
from penstock.trainings.skipgram import Skipgram

SMALL = {
    "masked": lambda data, uri: Masked(
        data, uri, Fresh("dna", width=8, layers=1, heads=2, longest=32), "ids", epochs=2, batch_tokens=64
    ),
    "psi_stylegan": lambda data, uri: PsiStylegan(
        data, uri, "flow", width=8, latent=4, layers=1, samples=8, epochs=2, batch_rows=8
    ),
    "psi_vae": lambda data, uri: PsiVae(data, uri, "flow", width=8, latent=4, components=1, samples=8, epochs=2),
    "skipgram": lambda data, uri: Skipgram(data, uri, Exact(10), "ids", dim=4, epochs=2),
}


NEEDED = {"psi_stylegan": "flow", "psi_vae": "flow"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    random = np.random.default_rng(0)
    rows = [[2, *random.integers(5, 9, size=random.integers(5, 20)).tolist(), 3] for _ in range(32)]
    flows = random.standard_normal((32, 2, 32, 32), np.float32)
    table = pa.table({"ids": pa.array(rows, pa.list_(pa.int64())), "flow": tensor_column(flows)})
    table = table.append_column("viscosity", pa.array(np.full(32, 0.01)))
    sink, records = Parquet(str(tmp_path_factory.mktemp("data"))), []
    for start, stop in pairwise((0, 20, 32)):
        unit = Unit.of("rows", "1", start, stop)
        records.append((unit, Record(unit.key, sink.write(unit, table.slice(start, stop - start)))))
    schema = table.schema.serialize().to_pybytes().hex()
    sink.commit(lambda: iter(records), {"fingerprint": "rows", "schema": schema})
    return sink.uri


def test_every_entry_point_is_held_to_this():
    assert set(plugins.named("trainings")) == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_a_training_keeps_its_promises(name, data, tmp_path):
    training, heard = SMALL[name](data, str(tmp_path / "result")), []
    assert isinstance(training, Training)
    assert (training.reads, training.uri) == (data, str(tmp_path / "result"))
    assert not training.done()
    Inline().train(Fit(name, training), heard.append)
    assert training.done()
    assert [line["epoch"] for line in heard][-1] == 2
    assert history.read(training.uri) == heard
    assert verify(training.uri).schema == training.schema(existing(data).schema)
    version = existing(training.uri).version
    Inline().train(Fit(name, training), lambda metrics: pytest.fail("it was done"))
    assert existing(training.uri).version == version
    with pytest.raises(SchemaError, match=f"{name} needs a column '{NEEDED.get(name, 'ids')}'"):
        training.schema(pa.schema([("text", pa.string())]))


@pytest.mark.parametrize("name", SMALL)
def test_it_is_written_to_files_and_read_again(name):
    fit = Fit("lesson", SMALL[name]("/data", "/result"))
    spec = Spec((Pipeline("line", Dataset("/raw"), Parquet("/data")),), fits=(fit,))
    for form in ("toml", "yaml"):
        assert loads(dumps(spec, form), form) == spec
