"""A generator of flow trained by two workers of Ray Train, one of which is killed; its fields made by actors."""

import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from held import HeldPsiVae, kill_a_worker

from penstock.core.batch import digest, tensor_column
from penstock.core.nouns import Fit, Pipeline, Place, Record, Step, Unit
from penstock.core.reading import read_table
from penstock.models import generator
from penstock.runners.inline import Inline
from penstock.runners.ray import Ray
from penstock.sinks.parquet import Parquet
from penstock.sources.seeds import Seeds
from penstock.stages.generate import Generate
from penstock.testing.models import tiny_generator

PAIR = Place("actor", replicas=(2, 2), cpus=0.5)
# Far less time on two free cores.
pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("importable")]


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    random = np.random.default_rng(0)
    velocity = tensor_column(random.standard_normal((40, 2, 32, 32), np.float32))
    table = pa.table({"velocity": velocity, "viscosity": np.full(40, 0.01)})
    sink, records = Parquet(str(tmp_path_factory.mktemp("flows"))), []
    for start, stop in pairwise((0, 15, 40)):
        unit = Unit.of("flows", "1", start, stop)
        records.append((unit, Record(unit.key, sink.write(unit, table.slice(start, stop - start)))))
    schema = table.schema.serialize().to_pybytes().hex()
    sink.commit(lambda: iter(records), {"fingerprint": "flows", "schema": schema})
    return sink.uri


def lesson(flows, folder):
    """It waits where something was published, as long as there is a file ``hold`` of its name."""
    small = {"width": 8, "latent": 4, "components": 1, "samples": 8, "batch_rows": 4, "hold": f"{folder}.hold"}
    return HeldPsiVae(flows, str(folder), epochs=12, publish_minutes=0, **small)


def test_two_workers_learn_and_end_with_the_same_bits_after_one_was_killed(flows, tmp_path):
    whole, broken = (lesson(flows, tmp_path / name) for name in ("whole", "broken"))
    killed, heard = [], []
    Path(broken.hold).touch()
    with Ray(cpus=2).session():
        Ray(cpus=2).train(Fit("whole", whole, PAIR), heard.append)
        threading.Thread(target=kill_a_worker, args=(broken, killed), daemon=True).start()
        Ray(cpus=2).train(Fit("broken", broken, PAIR), lambda metrics: None)
    assert killed, "the training went by before anybody was killed"
    assert broken.done()
    assert heard[-1]["epoch"] == 12
    assert generator.hashes_of(broken.uri) == generator.hashes_of(whole.uri)


def test_actors_make_the_same_fields_as_one_process(tmp_path):
    model = str(tiny_generator(tmp_path / "model"))

    def line(name, place):
        source = Seeds(24, unit_rows=5, ranges={"viscosity": (0.01, 0.04)})
        return Pipeline("fields", source, Parquet(str(tmp_path / name)), (Step(Generate(model, device="cpu"), place),))

    Inline().run(line("here", Place()))
    with Ray(cpus=2).session():
        Ray(cpus=2).run(line("there", Place("actor", replicas=(2, 2), cpus=0.5)))
    assert digest(read_table(str(tmp_path / "there"))) == digest(read_table(str(tmp_path / "here")))
