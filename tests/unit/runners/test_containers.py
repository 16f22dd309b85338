"""The words for each engine, and the pipe: a real process that stands for the container."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from penstock.core.nouns import Pipeline, Place, Step
from penstock.core.spec import loads
from penstock.errors import PlanError, RunError, TooManyBadUnits
from penstock.runners import container, places
from penstock.runners.inline import Inline
from penstock.serving.chain import Chain, marked, opened
from penstock.sinks.parquet import Parquet
from penstock.stages.clean import Clean
from penstock.stages.kmer import Kmer
from penstock.testing.parts import Journal, Numbers, Squares

IMAGE = "penstock-stage:0.1"
PLACE = Place("container", image=IMAGE, cpus=2, mounts=("/data:/models", "/x"))
STEP = Step(
    Clean(alphabet="dna", max_length=9), Place("container", image=IMAGE, cpus=2, mounts=("/data:/models", "/x"))
)
WORDS = ["stage", "clean", "--config", '{"alphabet": "dna", "max_length": 9}']


@pytest.fixture(autouse=True)
def _process(monkeypatch):
    monkeypatch.setenv("PENSTOCK_ENGINE", "process")


def test_what_is_said_to_the_image_is_json():
    assert container.words_for(STEP) == WORDS


GOLDEN = {
    "docker": "docker run --rm --interactive --name=N --network=none --read-only --tmpfs=/tmp --cap-drop=ALL "
    "--security-opt=no-new-privileges --cpus=2 --volume=/data:/models:ro --volume=/x:/x:ro penstock-stage:0.1 WORDS",
    "podman": "podman run --rm --interactive --name=N --network=none --read-only --tmpfs=/tmp --cap-drop=ALL "
    "--security-opt=no-new-privileges --cpus=2 --volume=/data:/models:ro --volume=/x:/x:ro penstock-stage:0.1 WORDS",
    "apptainer": "apptainer run --containall --bind=/data:/models:ro --bind=/x:/x:ro docker://penstock-stage:0.1 WORDS",
    "buildah": "buildah run --isolation=chroot --volume=/data:/models:ro --volume=/x:/x:ro N -- penstock WORDS",
    "process": f"{sys.executable} -m penstock WORDS",
}


@pytest.mark.parametrize("engine", container.ENGINES)
def test_the_words_for_each_engine(engine):
    assert " ".join(container.ENGINES[engine].command(STEP.place, "N", ["WORDS"])) == GOLDEN[engine]


def test_gpus_memory_and_network_are_asked_for():
    place = replace(STEP.place, gpus=1, memory_bytes=1 << 30, network=True, mounts=())
    docker = container.ENGINES["docker"].command(place, "N", [])
    assert "--gpus=all" in docker
    assert f"--memory={1 << 30}" in docker
    assert "--network=none" not in docker
    assert "--device=nvidia.com/gpu=all" in container.ENGINES["podman"].command(place, "N", [])
    assert "--nv" in container.ENGINES["apptainer"].command(replace(place, image="stage.sif"), "N", [])
    assert "stage.sif" in container.ENGINES["apptainer"].command(replace(place, image="stage.sif"), "N", [])


def test_the_first_engine_that_is_there_is_taken(monkeypatch, tmp_path):
    monkeypatch.delenv("PENSTOCK_ENGINE")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PlanError, match=r"neither docker, podman, apptainer nor buildah is on PATH and answers; inst"):
        container.chosen()
    (tmp_path / "docker").write_text("#!/bin/sh\necho Cannot connect to the Docker daemon >&2; exit 1\n")
    (tmp_path / "docker").chmod(0o755)
    for name in ("buildah", "podman"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert container.chosen()[0] == name
    monkeypatch.setenv("PENSTOCK_ENGINE", "lxc")
    with pytest.raises(PlanError, match="PENSTOCK_ENGINE is 'lxc'; one of docker, podman, apptainer, buildah, process"):
        container.chosen()


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ({"kind": "actor", "image": "x"}, "image, mounts and network are of kind 'container', not of 'actor'"),
        ({"kind": "task", "address": "http://x"}, "address is of kind 'serve', not of 'task'"),
        ({"kind": "container", "image": "x", "mounts": [":/x"]}, "'HERE:THERE' or one path for both was needed"),
    ],
)
def test_a_place_that_makes_no_sense_is_refused(place, problem):
    with pytest.raises(ValueError, match=problem):
        Place(**place)


def test_a_place_in_a_file():
    text = """
    source = { use = "fasta", uri = "a.fasta" }
    sink = { use = "parquet", uri = "out" }
    [[step]]
    use = "clean"
    place = { kind = "container", image = "penstock-stage:0.1", replicas = [1, 2], mounts = ["/models"] }
    """
    [pipeline] = loads(text).pipelines
    assert pipeline.steps[0].place == Place("container", (1, 2), image=IMAGE, mounts=("/models",))


def test_no_image_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PENSTOCK_ENGINE", "docker")
    with pytest.raises(PlanError, match=r"step squares has place\.kind = 'container' and no image; say which"):
        Inline().run(line(tmp_path / "out", Step(Squares(), Place("container"))))


def line(folder, *steps, units=5):
    return Pipeline("line", Numbers(units), Parquet(str(folder)), steps)


def test_rows_and_reasons_are_those_of_the_stage_here(tmp_path):
    near = Inline().run(line(tmp_path / "near", Step(Squares(bad=(33,)))))
    far = Inline().run(line(tmp_path / "far", Step(Squares(bad=(33,)), Place("container"))))
    assert far.manifest.sha256 == near.manifest.sha256
    assert (far.rows, far.bad_rows) == (near.rows, near.bad_rows) == (99, 1)
    put_aside = [
        sorted(path.read_bytes() for path in (tmp_path / name / "quarantine").rglob("*.parquet"))
        for name in ("near", "far")
    ]
    assert put_aside[0] == put_aside[1]


def test_a_container_that_is_killed_is_started_again(tmp_path):
    journal = tmp_path / "journal"
    with container.opened(Step(Journal(str(journal)), Place("container"))) as transform:
        for at, unit in enumerate(Numbers(4).units()):
            assert transform(Numbers().read(unit)).num_rows == 20
            pids = [int(text.split()[1]) for text in journal.read_text().splitlines()]
            assert len(pids) == at + 1
            os.kill(pids[-1], signal.SIGKILL)
    assert len(set(pids)) == 4


def test_a_batch_that_ends_its_container_each_time_is_told(tmp_path):
    deadly = Step(Journal(str(tmp_path / "journal"), deadly=20), Place("container"))
    with pytest.raises(TooManyBadUnits, match=r"the container of journal ended 3 times over one batch"):
        Inline().run(line(tmp_path / "out", deadly, units=3))
    assert len((tmp_path / "journal").read_text().splitlines()) == 1 + 3 + 1


def test_nothing_stays_behind(tmp_path):
    journal = tmp_path / "journal"
    with container.opened(Step(Journal(str(journal)), Place("container"))) as transform:
        transform(Numbers().read(next(iter(Numbers().units()))))
        pid = int(journal.read_text().split()[1])
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_container_ends_with_the_process_that_started_it(tmp_path):
    """Also when that is killed: its input ends."""
    code = f"""
import time
from penstock.core.nouns import Place, Step
from penstock.runners import container
from penstock.testing.parts import Journal, Numbers
with container.opened(Step(Journal({str(tmp_path / "journal")!r}), Place("container"))) as transform:
    transform(Numbers().read(next(iter(Numbers().units()))))
    print("ready", flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"ready\n"
    parent.kill()
    parent.wait()
    pid = int((tmp_path / "journal").read_text().split()[1])
    for _ in range(300):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail("the container outlived its driver by half a minute")


def test_a_stage_that_cannot_be_opened_tells_why(tmp_path):
    step = Step(Journal(str(tmp_path / "no" / "folder")), Place("container"))
    with pytest.raises(RunError, match=r"step journal cannot be opened in a container(.|\n)*FileNotFoundError"):
        container.opened(step).__enter__()


def test_a_program_that_is_not_there_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PENSTOCK_ENGINE", "docker")
    monkeypatch.setenv("PATH", str(tmp_path))
    step = Step(Squares(), Place("container", image="x"))
    with pytest.raises(RunError, match="of x: the container cannot be started by 'docker'"):
        container.opened(step).__enter__()


def test_packages_that_are_not_in_the_image_end_the_run_and_cost_no_rows(monkeypatch, tmp_path):
    """The image here is this Python with an import system that lacks one."""
    lacking = (
        "import importlib.util as u\n"
        "find = u.find_spec\nu.find_spec = lambda n, *a: find(n, *a) if n != 'numba' else None\n"
    )
    (tmp_path / "sitecustomize.py").write_text(lacking)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RunError, match=r"step kmer cannot be opened(.|\n)*kmer needs numba, which is not in"):
        container.opened(Step(Kmer(k=5), Place("container", image="core"))).__enter__()


def test_json_is_all_that_the_image_must_understand():
    config = json.loads(container.words_for(STEP)[-1])
    assert Clean(**config) == STEP.stage


def test_a_served_chain_does_each_step_where_its_place_is(tmp_path):
    place, bad = Place("container", image="any"), (13,)
    journal = tmp_path / "journal"
    steps = (Step(Journal(str(journal)), place), Step(Squares(bad=bad)), Step(Journal(str(journal))))
    chain = Chain("line", steps, Numbers().schema())
    batch = marked(Numbers().read(next(iter(Numbers().units()))), range(20))
    with opened(chain) as here, opened(chain, places.live) as there:
        assert there(batch) == here(batch)
    pids = [int(line.split()[1]) for line in journal.read_text().splitlines()]
    assert [pid == os.getpid() for pid in pids] == [False, True, True, True]
