"""An encoder trained by two workers of Ray Train, of which one is killed once, and once the driver."""

import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from held import HeldMasked, kill_a_worker, published, workers_of

from penstock.core.nouns import Fit, Place, Record, Unit
from penstock.core.storage import join
from penstock.models.masked import Fresh
from penstock.runners.ray import Ray
from penstock.sinks.parquet import Parquet
from penstock.stages.encode import Encode
from penstock.trainings import history

PAIR = Place("actor", replicas=(2, 2), cpus=0.5)
# Far less time on two free cores.
pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("importable")]


@pytest.fixture(scope="module")
def genes(tmp_path_factory):
    """Rows of one base each."""
    random = np.random.default_rng(0)
    rows = [[2, *[5 + random.integers(4)] * random.integers(10, 20), 3] for _ in range(96)]
    table = pa.table({"input_ids": pa.array(rows, pa.list_(pa.int32()))})
    sink, records = Parquet(str(tmp_path_factory.mktemp("genes"))), []
    for start, stop in pairwise((0, 40, 96)):
        unit = Unit.of("genes", "1", start, stop)
        records.append((unit, Record(unit.key, sink.write(unit, table.slice(start, stop - start)))))
    schema = table.schema.serialize().to_pybytes().hex()
    sink.commit(lambda: iter(records), {"fingerprint": "genes", "schema": schema})
    return sink.uri


def lesson(genes, folder, name, epochs=6):
    """It waits where something was published, as long as there is a file ``hold``."""
    network = Fresh("dna", width=16, layers=1, heads=2, longest=32)
    given = {"rate": 0.01, "epochs": epochs, "batch_tokens": 64, "publish_minutes": 0, "hold": str(folder / "hold")}
    return HeldMasked(genes, str(folder / name), network, **given)


def weights(uri):
    from safetensors.numpy import load_file

    return load_file(join(uri, "model.safetensors"))


@pytest.fixture(scope="module")
def whole(genes, tmp_path_factory):
    """The training that nobody disturbs, and what was heard of it."""
    training, heard = lesson(genes, tmp_path_factory.mktemp("whole"), "whole"), []
    with Ray(cpus=2).session():
        Ray(cpus=2).train(Fit("whole", training, PAIR), heard.append)
    assert heard[-1]["loss"] < heard[0]["loss"]
    return training, heard


def is_like(broken, whole):
    """To rounding: sums of two workers are not added up in the same order."""
    training, heard = whole
    assert broken.done()
    one, other = weights(training.uri), weights(broken.uri)
    assert max(float(np.abs(one[name] - other[name]).max()) for name in one) < 1e-5
    lines = history.read(broken.uri)
    assert [line["epoch"] for line in lines] == list(range(1, 7))
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in heard], rel=1e-4)


def test_two_workers_learn_and_go_on_after_one_was_killed(genes, whole, tmp_path):
    broken, killed = lesson(genes, tmp_path, "broken"), []
    Path(broken.hold).touch()
    with Ray(cpus=2).session():
        thread = threading.Thread(target=kill_a_worker, args=(broken, killed), daemon=True)
        thread.start()
        Ray(cpus=2).train(Fit("broken", broken, PAIR), lambda metrics: None)
    assert killed, "the training went by before anybody was killed"
    is_like(broken, whole)
    batch = pa.table({"input_ids": pa.array([[2, 5, 6, 3]], pa.list_(pa.int32()))})
    with Encode(broken.uri).open() as encode:
        assert encode(batch).num_rows == 1


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_masked_on_ray import PAIR, Fit, Ray, lesson
training = lesson(sys.argv[2], Path(sys.argv[3]), "driven")
Ray(cpus=2).train(Fit("driven", training, PAIR), lambda metrics: None)
"""


def test_a_driver_that_was_killed_goes_on_when_it_is_started_again(genes, whole, tmp_path):
    driven = lesson(genes, tmp_path, "driven")
    Path(driven.hold).touch()
    command = [sys.executable, "-c", DRIVER, str(Path(__file__).parent), genes, str(tmp_path)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not published(driven):
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.02)
    workers = workers_of(driver.pid)
    driver.kill()
    driver.communicate()
    assert not psutil.wait_procs(workers, 180)[1], "workers outlive their driver"
    assert not driven.done(), "it was killed in the middle"
    Path(driven.hold).unlink()
    again = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    is_like(driven, whole)
