"""An encoder trained by two workers of Ray Train, one of which is killed once."""

import os
import signal
import threading
import time
from itertools import pairwise

import numpy as np
import psutil
import pyarrow as pa
import pytest

from penstock.core.dataset import newest
from penstock.core.nouns import Fit, Place, Record, Unit
from penstock.core.storage import join
from penstock.models.masked import Fresh
from penstock.runners.ray import Ray
from penstock.sinks.parquet import Parquet
from penstock.stages.encode import Encode
from penstock.trainings import history
from penstock.trainings.masked import Masked

PAIR = Place("actor", replicas=(2, 2), cpus=0.5)


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
    network = Fresh("dna", width=16, layers=1, heads=2, longest=32)
    return Masked(genes, str(folder / name), network, rate=0.01, epochs=epochs, batch_tokens=64, publish_minutes=0)


def weights(uri):
    from safetensors.numpy import load_file

    return load_file(join(uri, "model.safetensors"))


def kill_a_worker(training, killed):
    """Once something was published, end one of the processes that train."""
    meanwhile = join(training.uri, "training")
    while not killed:
        if newest(meanwhile):
            mine = psutil.Process().children(recursive=True)
            workers = [p for p in mine if any("RayTrainWorker" in word for word in p.cmdline())]
            if workers:
                os.kill(workers[-1].pid, signal.SIGKILL)
                killed.append(workers[-1].pid)
        time.sleep(0.05)


def test_two_workers_learn_and_go_on_after_one_was_killed(genes, tmp_path):
    whole, broken = (lesson(genes, tmp_path, name) for name in ("whole", "broken"))
    killed, heard = [], []
    with Ray(cpus=2).session():
        Ray(cpus=2).train(Fit("whole", whole, PAIR), heard.append)
        thread = threading.Thread(target=kill_a_worker, args=(broken, killed), daemon=True)
        thread.start()
        Ray(cpus=2).train(Fit("broken", broken, PAIR), lambda metrics: None)
    assert killed, "the training was over before anybody could be killed"
    assert broken.done()
    assert heard[-1]["loss"] < heard[0]["loss"]
    one, other = weights(whole.uri), weights(broken.uri)
    assert max(float(np.abs(one[name] - other[name]).max()) for name in one) < 1e-5
    lines = history.read(broken.uri)
    assert [line["epoch"] for line in lines] == list(range(1, 7))
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in heard], rel=1e-4)
    batch = pa.table({"input_ids": pa.array([[2, 5, 6, 3]], pa.list_(pa.int32()))})
    with Encode(broken.uri).open() as encode:
        assert encode(batch).num_rows == 1
