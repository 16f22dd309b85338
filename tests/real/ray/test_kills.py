"""SIGKILL at random moments: the dataset is the undisturbed one, and little is done twice.

Each kill of a driver costs a start of Ray; ``KILLS=20`` in the environment has as many on S3 as on disk.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from penstock.core.dataset import existing
from penstock.core.reading import read_table
from penstock.runners.inline import Inline

sys.path.insert(0, str(Path(__file__).parent))
from drive import line

UNITS, SECONDS, WORKERS = 40, 0.1, 2


@pytest.fixture(params=["disk", "s3"])
def root(request, tmp_path):
    if request.param == "disk":
        return str(tmp_path / "out")
    bucket = request.getfixturevalue("s3")
    return f"{bucket}/kills-{random.randrange(10**9)}"


@pytest.fixture
def most(root):
    return int(os.environ.get("KILLS", "8" if root.startswith("s3:") else "20"))


def start(root: str, journal: Path) -> subprocess.Popen:
    command = [sys.executable, str(Path(__file__).parent / "drive.py"), root, str(journal), str(UNITS), str(SECONDS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines(journal: Path) -> list[str]:
    return journal.read_text().splitlines() if journal.exists() else []


def wait_for_work(driver: subprocess.Popen, journal: Path, more_than: int) -> bool:
    """Whether the driver has come to work, and not to its end, before some minutes are over."""
    end = time.monotonic() + 400
    while time.monotonic() < end:
        if len(lines(journal)) > more_than:
            return True
        if driver.poll() is not None:
            return False
        time.sleep(0.1)
    raise AssertionError("the driver did nothing for minutes")


def finished(driver: subprocess.Popen) -> None:
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 0, out + err


def undisturbed(folder: Path):
    report = Inline().run(line(str(folder / "wanted"), str(folder / "wanted.journal"), UNITS, 0))
    return report.manifest


def check_equal(root: str, wanted) -> None:
    found = existing(root)
    assert read_table(root).equals(read_table(wanted.uri)), "row for row"
    columns = ["unit", "rows", "part_sha256", "bad_rows"]
    assert found.parts().select(columns).equals(wanted.parts().select(columns))
    assert found.bad_rows == 1


@pytest.mark.timeout(3600)
def test_a_driver_killed_at_random_moments(root, most, tmp_path):
    rng, journal, kills = random.Random(4), tmp_path / "journal", 0
    wanted = undisturbed(tmp_path)
    rounds = 0
    while kills < most:
        target, rounds = f"{root}-{rounds}", rounds + 1
        done = False
        while not done:
            driver = start(target, journal)
            if kills < most and wait_for_work(driver, journal, len(lines(journal))):
                time.sleep(rng.uniform(0, 1.2))
                if driver.poll() is None:
                    driver.kill()
                    driver.communicate()
                    kills += 1
                    continue
            finished(driver)
            done = True
        check_equal(target, wanted)
    worked = len(lines(journal))
    non_empty = sum(1 for rows in wanted.parts()["rows"].to_pylist() if rows)
    redone = worked - rounds * non_empty
    print(f"{kills} kills in {rounds} datasets: {redone} of {worked} batches were done twice")
    assert 0 <= redone <= kills * WORKERS
    assert not leftovers(tmp_path), "no process outlives its driver"


def leftovers(folder: Path) -> list[str]:
    """Workers of killed drivers that still hold this test's journal open, after a while of grace."""
    end = time.monotonic() + 120
    while True:
        found = [p.info["cmdline"] for p in psutil.process_iter(["cmdline", "open_files"]) if holds(p, folder)]
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.1)


def holds(process: psutil.Process, folder: Path) -> bool:
    return any(file.path.startswith(str(folder)) for file in process.info["open_files"] or ())


@pytest.mark.timeout(3600)
def test_workers_killed_at_random_moments(root, most, tmp_path):
    rng, journal, kills = random.Random(5), tmp_path / "journal", 0
    wanted = undisturbed(tmp_path)
    rounds = 0
    while kills < most:
        target, rounds = f"{root}-{rounds}", rounds + 1
        driver, victims = start(target, journal), Counter()
        while kills < most and driver.poll() is None:
            if wait_for_work(driver, journal, len(lines(journal))):
                time.sleep(rng.uniform(0, 0.3))
                pid = int(lines(journal)[-1].split()[1])
                if not victims[pid]:
                    with suppress(ProcessLookupError):  # it may have ended with its work
                        os.kill(pid, signal.SIGKILL)
                        victims[pid] += 1
                        kills += 1
        finished(driver)
        check_equal(target, wanted)
    non_empty = sum(1 for rows in wanted.parts()["rows"].to_pylist() if rows)
    redone = len(lines(journal)) - rounds * non_empty
    print(f"{kills} workers killed in {rounds} datasets: {redone} batches were done twice")
    assert 0 <= redone <= kills * WORKERS
