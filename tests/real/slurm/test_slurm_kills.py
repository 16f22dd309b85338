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

from slurm_site import ran_once

JOBS, KILLS = 200, 20


def start(site, folder, session):
    command = [sys.executable, str(Path(__file__).parent / "submit_and_watch.py")]
    command += [str(site.base), site.host, str(folder), session, str(JOBS)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "PATH": site.path}, start_new_session=True, **pipes)


def test_200_jobs_and_a_driver_that_is_killed_20_times(slurm_forgetful, tmp_path):
    site, chance, session = slurm_forgetful, random.Random(20), uuid.uuid4().hex
    for kill in range(KILLS):
        driver = start(site, tmp_path, session)
        time.sleep(chance.uniform(0.7, 4.0))
        # Now the driver alone, whose ssh goes on; now all that it started as well.
        os.kill(driver.pid, signal.SIGKILL) if kill % 2 else os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
        assert driver.returncode == -signal.SIGKILL
    driver = start(site, tmp_path, session)
    out, err = driver.communicate(timeout=240)
    assert driver.returncode == 0, err
    told = json.loads(out)
    assert len(told) == JOBS
    assert set(told.values()) == {"done"}
    assert sum(ran_once(tmp_path / f"job{number}") for number in range(JOBS)) == JOBS
    natives = site.natives(tmp_path)
    assert len(natives) == JOBS
    assert len({native.name for native in natives}) == JOBS
    assert {native.state for native in natives} == {"COMPLETED"}
