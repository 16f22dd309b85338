"""``penstock tune`` on Ray Tune: what it writes, what it stops, and how it goes on when it was killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from penstock.core.spec import load
from penstock.tables.layout import Table
from penstock.tables.working import notes
from penstock.trainings.search import draw, recall, trials

PROGRAM = str(Path(sys.executable).parent / "penstock")
pytestmark = pytest.mark.timeout(1800)  # far less on two free cores

FILE = """
runner = { use = "ray", cpus = 2 }

[pipeline.kmers]
source = { use = "jsonl", uri = "reads.jsonl", columns = { sequence = "string" } }
sink = { use = "parquet", uri = "out/kmers" }

[[pipeline.kmers.step]]
use = "kmer"
k = 6

[train.table]
use = "skipgram"
source = "out/kmers"
table = "out/table"
scheme = { kind = "hashed", rows = 5000 }
dim = 8
epochs = 2
block_rows = 32
chunk_tokens = 2000

[tune]
train = "table"
samples = 4
epochs = 4
seed = 1

[tune.space]
"pipeline.kmers.step.0.k" = [5, 6]
"train.table.rate" = { low = 0.001, high = 0.5, log = true }
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Reads of three random genomes."""
    folder, rng = tmp_path_factory.mktemp("tune"), random.Random(1)
    genomes = ["".join(rng.choices("ACGT", k=600)) for _ in range(3)]
    starts = [(genomes[number % 3], rng.randrange(500)) for number in range(240)]
    reads = (json.dumps({"sequence": genome[start : start + 100]}) for genome, start in starts)
    (folder / "reads.jsonl").write_text("\n".join(reads))
    (folder / "line.toml").write_text(FILE)
    return folder / "line.toml"


def start(file: Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [PROGRAM, "tune", str(file), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(file: Path) -> dict[str, bytes]:
    folder = file.parent / "out" / "table-tune" / "trials"
    return {str(path): path.read_bytes() for path in folder.glob("*/ended.json")}


def test_a_search_that_is_killed_goes_on_and_leaves_a_trained_table_a_file_and_a_page(file):
    driver = start(file)
    while not ended(file):
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    before = ended(file)
    assert 1 <= len(before) <= 4, "all have ended only where the kill came late, on a busy machine"

    driver = start(file)
    out, err = driver.communicate(timeout=900)
    assert driver.returncode == 0, out + err
    assert f"{len(before)} of 4 trials have ended before" in err
    after = ended(file)
    assert len(after) == 4
    assert {path: after[path] for path in before} == before, "what had ended was not tried again"

    found, wanted = [recall(trial) for trial in trials(file, {})], load(file).tune
    assert [each.values for each in found] == draw(wanted)
    winner = max(found, key=lambda each: each.last("likeness"))
    for each in found:
        assert each.state == "done" if each.lines[-1]["epoch"] == 4 else each.state == "stopped"
        assert f"{each.last('likeness'):.4f}" in out

    best = load(file.with_name("best.toml"))
    assert best.fits[0].training.rate == winner.values["train.table.rate"]
    assert best.pipeline("kmers").steps[0].stage.k == winner.values["pipeline.kmers.step.0.k"]
    assert "tune" not in tomllib.loads(file.with_name("best.toml").read_text())
    assert best.fits[0].training.epochs == 2, "the file's own, at the file's own place"
    assert best.fits[0].training.done()
    assert notes(Table.at(str(file.parent / "out" / "table")))["epoch"] == 2
    page = file.with_name("tune.html").read_text()
    assert "Search for table" in page
    assert page.count("data-plot=") == 2


HASHES = """
[tune]
train = "table"
samples = 3
epochs = 1
seed = 1

[tune.space]
"train.table.dim" = [8, 16]
"train.table.window" = { low = 2, high = 8 }
"train.table.rate" = { low = 0.01, high = 0.2, log = true }
hash = [
    { "pipeline.kmers.step.0.planes" = "planes-12.npz", "train.table.scheme.bits" = 6 },
    { "pipeline.kmers.step.0.planes" = "planes-16.npz", "train.table.scheme.bits" = 8 },
]
"""


def fitted(folder: Path, k: int, bits: int) -> None:
    source = '{ use = "jsonl", uri = "reads.jsonl", columns = { sequence = "string" } }'
    command = [
        PROGRAM,
        "planes",
        "fit",
        source,
        f"--k={k}",
        f"--bits={bits}",
        "--bands=2",
        f"--out=planes-{2 * bits}.npz",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_planes_dim_window_and_rate_are_searched_together(file):
    """k and the number of bits go with the planes, which `penstock planes fit` has made."""
    lines = FILE.split("[tune]", maxsplit=1)[0].replace("k = 6", 'planes = "planes-12.npz"')
    lines = lines.replace('{ kind = "hashed", rows = 5000 }', '{ kind = "bands", bands = 2, bits = 6 }')
    ours = file.with_name("hashes.toml")
    ours.write_text(lines.replace("out/", "hashed/") + HASHES)
    for k, bits in ((9, 6), (11, 8)):
        fitted(file.parent, k, bits)
    driver = start(ours, "--search-only")
    out, err = driver.communicate(timeout=900)
    assert driver.returncode == 0, out + err
    tried = trials(ours, {})
    assert {trial.fit.training.scheme.bits for trial in tried} == {6, 8}, "the seed draws both"
    assert len({trial.pipelines[0].sink.uri for trial in tried}) == 2, "trials with the same planes share their k-mers"
    found = [recall(trial) for trial in tried]
    assert all(0.5 < each.last("likeness") <= 1 for each in found)
    winner = max(found, key=lambda each: each.last("likeness"))
    best = load(ours.with_name("best.toml"))
    stage, training = best.pipeline("kmers").steps[0].stage, best.fits[0].training
    assert Path(stage.planes).name == winner.values["hash"]["pipeline.kmers.step.0.planes"]
    assert training.scheme.bits == winner.values["hash"]["train.table.scheme.bits"]
    assert (training.dim, training.window) == (winner.values["train.table.dim"], winner.values["train.table.window"])


def test_a_search_in_which_nothing_works_says_why(file):
    driver = start(file, "--set", "train.table.scheme={kind='exact', rows=3}", "--search-only")
    out, err = driver.communicate(timeout=500)
    assert driver.returncode == 1
    assert "every trial of 'table' failed; the first: " in err, out + err
    assert "have no row" in err


def test_trials_for_which_there_is_no_room_are_refused_before_anything_starts(file):
    driver = start(file, "--set", "train.table.place.cpus=64")
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 1
    assert "table would never start: its workers need more than there is" in err
    assert "cpus: 1 x 64 = 64 of 2" in err
