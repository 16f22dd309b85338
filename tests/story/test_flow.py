"""The flow example: generated fields start solvers, stream into a running one, come back, and are judged."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from penstock.core.batch import to_numpy
from penstock.core.reading import read_table
from penstock.core.streaming import runs
from penstock.core.verify import verify
from penstock.flows import operators
from penstock.formats.openfoam import read_case_field, read_case_mesh, times
from penstock.models.generator import opened
from penstock.solvers.openfoam.process import held

EXAMPLE = Path(__file__).parents[2] / "examples" / "flow"
PENSTOCK = str(Path(sys.executable).parent / "penstock")
pytestmark = pytest.mark.timeout(3600)  # far less on two free cores
SMALL = {
    "pipeline.truth_sample.source.count": 4,
    "pipeline.truth_sample.source.unit_rows": 2,
    "pipeline.truth_sample.step.0.spin_up_seconds": 5.0,
    "pipeline.truth_sample.step.0.snapshots": 4,
    "pipeline.truth_sample.step.0.every_seconds": 1.0,
    "pipeline.generated.source.count": 16,
    "pipeline.started.source.count": 2,
    "pipeline.started.step.1.control": "{ endTime = 0.05, writeInterval = 10 }",
}


def command(*words):
    return [PENSTOCK, "run", *words, *(f"--set={key}={value}" for key, value in SMALL.items())]


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The example in small, run once; the driver is killed while the solver runs, and started again."""
    folder = tmp_path_factory.mktemp("flow")
    for name in ("box", "channel", "models"):
        (folder / name).symlink_to(EXAMPLE / name)
    file = folder / "pipeline.toml"
    file.write_bytes((EXAMPLE / "pipeline.toml").read_bytes())
    with subprocess.Popen(command(str(file)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 1200
        while not (folder / "out" / "channel" / "0.25").exists() and time.monotonic() < deadline:
            assert driver.poll() is None
            time.sleep(0.02)
        os.kill(driver.pid, signal.SIGKILL)
    assert driver.returncode == -signal.SIGKILL
    with held(folder / "out" / "channel"):  # its solver ends at its next exchange
        reached = max(float(name) for name in times(folder / "out" / "channel"))
    done = subprocess.run(command(str(file)), capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return SimpleNamespace(out=folder / "out", file=file, said=done.stdout, folder=folder, reached=reached)


def test_the_stream_went_on_where_the_kill_had_left_it(story):
    """A kill leaves nothing of its run; the second run fed the planes from the last written time on, and no others."""
    assert story.reached in (0.25, 0.5, 0.75, 1.0), "times are written in full"
    noted = runs(str(story.out / "channel"))
    assert len(noted) == 1 or (story.reached == 1.0 and not noted), "to its end only where a busy machine killed late"
    for run in noted:
        assert run["ended"]
        assert run["told"]["solver_time"] == pytest.approx(1.0)
        began = story.reached if story.reached < 1.0 else 0.0  # the first run itself came to its end
        assert run["told"]["planes"] == round((1.0 - began) / 0.005)


def velocities(story, name, column="velocity"):
    return to_numpy(read_table(str(story.out / name), [column])[column])


def test_every_dataset_is_whole(story):
    rows = {"truth_sample": 16, "generated": 16, "started": 2, "channel_fields": 4}
    for name, count in rows.items():
        assert verify(str(story.out / name)).rows == count
    assert "truth_sample: 16 rows, 2 units (2 were done before)" in story.said


def test_generated_fields_have_no_divergence_and_about_the_energy_of_true_ones(story):
    found, true = velocities(story, "generated"), velocities(story, "truth_sample")
    slope = operators.gradient(found.astype(float))
    assert np.sqrt((operators.divergence(found.astype(float)) ** 2).mean() / (np.asarray(slope) ** 2).mean()) < 1e-6
    assert 0.5 < (found**2).mean() / (true**2).mean() < 2


def test_each_field_started_a_solver_of_its_own(story):
    table = read_table(str(story.out / "started"))
    start, later = to_numpy(table["velocity"]), to_numpy(table["later"])
    assert np.isfinite(later).all()
    change = np.sqrt(((later[:, :2] - start) ** 2).mean() / (start**2).mean())
    assert 0.001 < change < 0.5, "in a twentieth of a time unit a flow moves, but not far"


def test_the_channel_got_the_swept_fields_of_the_generator(story):
    """The inlet of the last written time, by the definition of the sweep."""
    run = story.out / "channel"
    last = max(times(run), key=float)
    inlet = read_case_field(run, last, "U").boundary["inlet"]
    mesh = read_case_mesh(run)
    y = mesh.face_centres[mesh.patch("inlet").faces][:, 1]
    step = round(float(last) / 0.005) - 1
    with opened(str(EXAMPLE / "models" / "psi_stylegan"), "cpu") as live:
        field = live.fields([5000000], np.array([0.01]))[0].astype(float)
    n = field.shape[-1]
    waves = np.fft.fft2(field[0]) / n**2
    k = np.fft.fftfreq(n, 1 / n)
    at = -2 * np.pi * 0.005 * step / 2.0
    u = np.array([(waves * np.exp(1j * (k[None] * at + k[:, None] * 2 * np.pi * one / 2.0))).sum().real for one in y])
    near = np.clip(np.minimum(y, 1 - y) / 0.15, 0, 1)
    wanted = 1.0 + 0.15 * u * near**2 * (3 - 2 * near)
    assert float(last) == pytest.approx(1.0)
    assert np.asarray(inlet["value"])[:, 0] == pytest.approx(wanted, abs=1e-6)


def test_what_the_solver_wrote_came_back(story):
    table = read_table(str(story.out / "channel_fields"))
    assert table["time"].to_pylist() == pytest.approx([0.25, 0.5, 0.75, 1.0])
    last = read_case_field(story.out / "channel", max(times(story.out / "channel"), key=float), "U").internal
    assert np.array_equal(to_numpy(table["velocity"])[-1].reshape(last.shape), last)


def test_a_page_judges_the_generated_fields(story):
    page = story.folder / "judgement.html"
    words = [PENSTOCK, "judge", str(story.out / "generated"), "--truth", str(story.out / "truth_sample")]
    words += ["--steady-seconds", "1", "--out", str(page)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "rms(div) / rms(grad)" in done.stdout
    text = page.read_text()
    assert "<title>Judgement of generated" in text
    assert "Time to steady state" in text
