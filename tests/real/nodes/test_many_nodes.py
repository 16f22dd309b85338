"""The main job on four nodes with addresses of their own, while workers, nodes, the head and cables fail."""

import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import many_drive
from machines import machines, wait_until

from penstock.core.dataset import existing
from penstock.core.reading import read_table
from penstock.runners.inline import Inline

UNITS, SECONDS, NODES = 60, 0.5, 4
pytestmark = pytest.mark.timeout(1800)  # far less on two free cores
DRIVE = Path(many_drive.__file__)


@pytest.fixture(scope="module")
def nodes():
    base = Path(tempfile.mkdtemp(prefix="pn", dir="/tmp"))  # a short path: sockets lie below it
    with machines(base, NODES) as found:
        yield found


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wanted")
    return Inline().run(many_drive.line(str(folder / "out"), str(folder / "journal"), UNITS, 0)).manifest


def done(journal):
    return len(journal.read_text().splitlines()) if journal.exists() else 0


def start(nodes, folder, units=UNITS):
    return nodes.driver(DRIVE, str(folder / "out"), str(folder / "journal"), str(units), str(SECONDS))


def finished(driver, seconds=600):
    out, err = driver.communicate(timeout=seconds)
    assert driver.returncode == 0, out + err[-3000:]
    return out


def check_equal(folder, wanted):
    found, columns = existing(str(folder / "out")), ["unit", "rows", "part_sha256", "bad_rows"]
    assert read_table(found.uri).equals(read_table(wanted.uri)), "row for row"
    assert found.parts().select(columns).equals(wanted.parts().select(columns))


def come_back(nodes, node):
    """A node that was lost is started again, as its operator does."""
    nodes.kill(node)
    nodes.start(node)


def some_work(driver, journal, more=3):
    begun = done(journal)
    wait_until(lambda: done(journal) >= begun + more or driver.poll() is not None, "work goes on")
    return driver.poll() is None


def test_work_is_spread_over_the_nodes(nodes, wanted, tmp_path):
    driver = start(nodes, tmp_path)
    assert finished(driver).split()[1] == "0"
    check_equal(tmp_path, wanted)
    pids = {int(line.split()[1]) for line in (tmp_path / "journal").read_text().splitlines()}
    assert len(pids) >= 2, "several workers, each on a node of one core"


def test_workers_and_nodes_are_killed_meanwhile(nodes, wanted, tmp_path):
    rng, journal, struck = random.Random(11), tmp_path / "journal", []
    driver = start(nodes, tmp_path)
    while len(struck) < 6 and some_work(driver, journal):
        node = rng.randrange(1, NODES)
        if len(struck) % 3 == 2:
            nodes.kill(node)
            struck.append(f"node {node}")
            nodes.start(node)
        elif workers := nodes.processes(node, "ray::MapWorker"):
            with suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)
                struck.append(f"worker on {node}")
    finished(driver)
    assert len(struck) >= 3, struck
    check_equal(tmp_path, wanted)


def test_a_cable_is_pulled_for_a_while(nodes, wanted, tmp_path):
    driver = start(nodes, tmp_path)
    assert some_work(driver, tmp_path / "journal")
    nodes.pull(2)
    time.sleep(25)  # Ray gives it up after three times six seconds
    nodes.put_back(2)
    finished(driver)
    check_equal(tmp_path, wanted)
    come_back(nodes, 2)


def test_the_head_is_lost_and_the_run_goes_on_at_another(nodes, wanted, tmp_path):
    """All is lost but what was published: the driver says so by an error, and the same command goes on."""
    driver = start(nodes, tmp_path)
    assert some_work(driver, tmp_path / "journal", 12)
    nodes.kill(0)
    _, err = driver.communicate(timeout=400)
    assert driver.returncode != 0
    assert "does not answer any more" in err
    assert "the same command goes on" in err
    for node in range(NODES):
        nodes.kill(node)
    for node in range(NODES):
        nodes.start(node)
    skipped = int(finished(start(nodes, tmp_path)).split()[1])
    assert skipped > 0
    check_equal(tmp_path, wanted)


def test_a_head_that_keeps_its_state_comes_back_and_the_run_never_ends(wanted, tmp_path):
    """Ray's state is in a Redis (https://docs.ray.io/en/latest/ray-core/fault_tolerance/gcs.html); the driver is on
    another node than the head."""
    with machines(Path(tempfile.mkdtemp(prefix="pk", dir="/tmp")), 3, keeper=True) as kept:
        words = (str(tmp_path / "out"), str(tmp_path / "journal"), str(UNITS), str(SECONDS), kept.ip(1))
        driver = kept.driver(DRIVE, *words, node=1)
        assert some_work(driver, tmp_path / "journal", 10)
        kept.kill(0)
        time.sleep(3)
        kept.start(0)
        assert finished(driver).split()[1] == "0", "the same run, not a second one"
        check_equal(tmp_path, wanted)
