"""One stage at five places on real Ray: equal parts, also when what carries it is killed."""

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from penstock.core.nouns import Pipeline, Place, Step
from penstock.errors import PlanError
from penstock.runners.inline import Inline
from penstock.runners.ray import Ray
from penstock.sinks.parquet import Parquet
from penstock.testing.parts import Journal, Numbers, Squares

PLACES = {
    "function": Place(),
    "task": Place("task", cpus=0.5),
    "actor": Place("actor", (1, 2), cpus=0.5),
    "container": Place("container", (1, 2), cpus=0.5),
    "serve": Place("serve", (1, 1), cpus=0.5),
}


@pytest.fixture(scope="module")
def ray():
    """A process of this Python stands for the container; no engine is needed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENSTOCK_ENGINE", "process")
        runner = Ray(cpus=2)
        with runner.session():
            yield runner


def line(folder, *steps, units=15):
    return Pipeline("line", Numbers(units), Parquet(str(folder), file_bytes=4000), steps)


@pytest.mark.parametrize("kind", PLACES)
def test_every_place_gives_the_parts_of_inline(ray, tmp_path, kind):
    bad = Squares(bad=(33,))
    wanted = Inline().run(line(tmp_path / "inline", Step(bad)))
    found = ray.run(line(tmp_path / "ours", Step(Journal(str(tmp_path / "journal"))), Step(bad, PLACES[kind])))
    assert (found.rows, found.bad_rows) == (259, 1)
    assert [part["path"] for part in found.manifest.parts().to_pylist()] == [
        part["path"] for part in wanted.manifest.parts().to_pylist()
    ], "parts are named by their bytes"


@pytest.mark.parametrize("kind", ["container", "serve"])
def test_what_carries_a_stage_may_be_killed(ray, tmp_path, kind):
    """Three times, at random moments of its work; each row is there once."""
    journal = tmp_path / "journal"
    stage = Journal(str(journal), seconds=0.5)  # there is work left when the blow comes, on a busy machine too
    struck = []

    def strike():
        for _ in range(3):
            seen = len(struck) and len(journal.read_text().splitlines())
            while not journal.exists() or len(journal.read_text().splitlines()) <= seen + 3:
                time.sleep(0.02)
            pid = int(journal.read_text().splitlines()[-1].split()[1])
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                struck.append(pid)

    killer = threading.Thread(target=strike, daemon=True)
    killer.start()
    report = ray.run(line(tmp_path / "out", Step(stage, PLACES[kind]), units=60))
    killer.join(30)
    assert len(set(struck)) >= 2, "it was killed, and what came after it too"
    assert (report.rows, report.bad_rows, report.bad_units) == (1040, 0, 0)
    numbers = Path(journal).read_text().split()[::2]
    assert len(numbers) <= 52 + 3 * 2, "a kill costs at most the batches on the way"


def test_replicas_that_do_not_fit_are_refused_before_anything_starts(tmp_path):
    step = Step(Squares(), Place("serve", (4, 4), cpus=1))
    with pytest.raises(PlanError, match=r"service of squares 4 x 1 \+ read\+squares 1 = 5 of 2"):
        Ray(cpus=2).run(line(tmp_path / "out", step))
