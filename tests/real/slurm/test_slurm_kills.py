"""The driver is killed again and again: each job is submitted once, runs once, and is found again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from slurm_site import LIVING, ran_once, wait_until

JOBS, KILLS = 200, 20


def start(site, folder, session, jobs):
    command = [sys.executable, str(Path(__file__).parent / "submit_and_watch.py")]
    command += [str(site.base), site.host, str(folder), session, str(jobs)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "PATH": site.path}, start_new_session=True, **pipes)


def killed_again_and_again(site, folder, jobs, kills):
    """What became of so many jobs and their driver; also what `benchmarks/slurm_robust.py` measures."""
    chance, session = random.Random(20), uuid.uuid4().hex
    for kill in range(kills):
        driver = start(site, folder, session, jobs)
        time.sleep(chance.uniform(0.7, 4.0))
        # Now the driver alone, whose ssh goes on; now all that it started as well.
        os.kill(driver.pid, signal.SIGKILL) if kill % 2 else os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
        assert driver.returncode == -signal.SIGKILL
    driver = start(site, folder, session, jobs)
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 0, err
    # The exit records say that all have ended; Slurm says so as soon as the wrappers' last processes are gone.
    wait_until(lambda: not {native.state for native in site.natives(folder)} & {*LIVING}, "Slurm knows of all ends")
    natives = site.natives(folder)
    return {
        "jobs": jobs,
        "kills": kills,
        "told": len(told := json.loads(out)),
        "told_done": sum(state == "done" for state in told.values()),
        "ran_once": sum(ran_once(folder / f"job{number}") for number in range(jobs)),
        "native_ids": len(natives),
        "keys": len({native.name for native in natives}),
        "completed": sum(native.state == "COMPLETED" for native in natives),
    }


@pytest.mark.timeout(1200)
def test_200_jobs_and_a_driver_that_is_killed_20_times(slurm_forgetful, tmp_path):
    found = killed_again_and_again(slurm_forgetful, tmp_path, JOBS, KILLS)
    assert found.pop("kills") == KILLS
    assert set(found.values()) == {JOBS}, found
