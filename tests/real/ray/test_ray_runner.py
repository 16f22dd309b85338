"""The Ray runner, on a real Ray."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from penstock.core.nouns import Pipeline, Place, Step
from penstock.errors import PlanError, TooManyBadUnits
from penstock.runners.ray import Ray
from penstock.sinks.parquet import Parquet
from penstock.testing import RunnerTests
from penstock.testing.parts import Journal, Numbers, Squares


@pytest.fixture(scope="module")
def ray_up():
    """One Ray for all tests of this module; the runner finds it in this process."""
    with Ray(object_store_bytes=200 << 20).session():
        yield


class TestRay(RunnerTests):
    @pytest.fixture
    def runner(self, ray_up):
        return Ray()


@pytest.mark.parametrize("in_hand", [1, 4])
def test_a_unit_that_kills_its_worker_each_time_is_told_and_the_others_are_done(ray_up, tmp_path, in_hand):
    journal = tmp_path / "journal"
    steps = (Step(Journal(str(journal), deadly=45), Place("actor", replicas=(1, 1), concurrency=in_hand)),)
    with pytest.raises(TooManyBadUnits, match=r"\[40:60\]: it kills its worker each time, also alone"):
        Ray().run(Pipeline("line", Numbers(5), Parquet(str(tmp_path / "out")), steps))
    steps = (Step(Journal(str(journal)), Place("actor", replicas=(1, 1))),)
    assert Ray().run(Pipeline("line", Numbers(5), Parquet(str(tmp_path / "out")), steps)).skipped == 4


def test_a_pool_that_would_starve_the_readers_is_refused_at_once(tmp_path, monkeypatch):
    pool = Step(Squares(), Place("actor", replicas=(2, 2), cpus=1))
    line = Pipeline("line", Numbers(), Parquet(str(tmp_path / "out")), (pool,), read=Place("task", cpus=1))
    monkeypatch.setattr("penstock.runners.ray.Ray.session", lambda _: pytest.fail("Ray is started"))
    with pytest.raises(PlanError, match=r"cpus: squares 2 x 1 \+ read 1 = 3 of 2 \(this machine\)"):
        Ray(cpus=2).run(line)


def test_an_interrupted_run_ends_cleanly_and_goes_on(tmp_path):
    journal, root = tmp_path / "journal", tmp_path / "out"
    command = [sys.executable, str(Path(__file__).parent / "drive.py"), str(root), str(journal), "40"]
    driver = subprocess.Popen([*command, "2"], stderr=subprocess.PIPE, text=True)  # its end is half a minute away
    while not journal.exists() or len(journal.read_text().splitlines()) < 5:
        assert driver.poll() is None
        time.sleep(0.1)
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=240)
    assert driver.returncode != 0
    _, alive = psutil.wait_procs(children, timeout=180)
    assert not alive, "nothing of Ray is left"
    again = subprocess.run([*command, "0.2"], capture_output=True, text=True, timeout=400, check=True)
    rows, skipped = map(int, again.stdout.split())
    assert rows == 20 * 35 - 1
    assert skipped >= 3, "all but the units in work"


def test_an_existing_cluster_with_token_authentication(tmp_path, free_ports):
    """A head of another process, reached by address; the token comes from a file, as Ray documents it."""
    token = tmp_path / "token"
    token.write_text("0" * 8 + "secret-of-this-test" + "1" * 16)
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    [port] = free_ports(1)
    head = [str(Path(sys.executable).parent / "ray"), "start", "--head", f"--port={port}", "--num-cpus=2"]
    head += [
        "--include-dashboard=false",
        "--block",
        f"--temp-dir=/tmp/penstock-head-{os.getpid()}",
        "--disable-usage-stats",
    ]
    cluster = subprocess.Popen(head, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        program = (
            "import sys; from penstock.runners.ray import Ray; from drive import line;"
            f"line = line({str(tmp_path / 'out')!r}, {str(tmp_path / 'journal')!r}, 5, 0);"
            f"print(Ray(address='127.0.0.1:{port}').run(line).rows)"
        )
        env["PYTHONPATH"] = str(Path(__file__).parent)
        done = _retried([sys.executable, "-c", program], env, cluster)
        assert done.stdout.split() == ["99"], done.stdout + done.stderr
        env["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "other")
        (tmp_path / "other").write_text("wrong-token-wrong-token-wrong-token-00")
        refused = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=300)
        assert refused.returncode != 0
    finally:
        children = psutil.Process(cluster.pid).children(recursive=True) if cluster.poll() is None else []
        cluster.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):  # some end when others do
                child.kill()
        cluster.communicate()


def _retried(command: list[str], env: dict[str, str], cluster: subprocess.Popen) -> subprocess.CompletedProcess:
    """Until the head has come up."""
    end = time.monotonic() + 240
    while True:
        assert cluster.poll() is None, cluster.stdout.read()
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        if done.returncode == 0 or time.monotonic() > end:
            return done
        time.sleep(1)


def test_a_ray_that_is_not_there_is_told(free_ports):
    address = f"127.0.0.1:{free_ports(1)[0]}"
    program = f"from penstock.runners.ray import Ray; Ray({address!r}).resources()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert f"PlanError: no Ray answers at {address}: " in done.stderr
    assert "start one there by `ray start --head`, or leave address out" in done.stderr
