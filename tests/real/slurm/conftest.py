"""Real Slurm clusters, up for the whole session, and the slow jobs that they begin with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from slurm_site import SHORT, Site, late, once, running, shell

from penstock.clusters.slurm import Slurm


@pytest.fixture(scope="session")
def slurm() -> Iterator[Site]:
    """Four nodes, no accounting."""
    with running() as site:
        yield site


@pytest.fixture(scope="session")
def slurm_accounting() -> Iterator[Site]:
    """Two nodes, with accounting: sacct answers."""
    with running("--accounting", "--nodes", "2") as site:
        yield site


@pytest.fixture(scope="session")
def slurm_forgetful() -> Iterator[Site]:
    """Four nodes, no accounting, and squeue forgets ended jobs within about a minute, the least that Slurm can."""
    with running("--forget-seconds", "2", "--array-size", "11") as site:
        yield site


@pytest.fixture
def over_ssh(slurm: Site) -> Iterator[Slurm]:
    with slurm.reached():
        yield slurm.cluster()


@pytest.fixture
def with_accounting(slurm_accounting: Site) -> Iterator[Slurm]:
    """Over SSH too."""
    with slurm_accounting.reached():
        yield slurm_accounting.cluster()


@pytest.fixture(scope="session", autouse=True)
def slow(slurm: Site, slurm_forgetful: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Jobs whose story takes a minute or more begin with the session; here is their folder."""
    folder = tmp_path_factory.mktemp("slow")
    with slurm.reached():
        slurm.cluster(**SHORT).submit(late(folder / "late"))
    with slurm_forgetful.reached():
        for job in (once(folder / "forgotten"), shell(folder / "forgotten-bad", "exit 7")):
            slurm_forgetful.cluster().submit(job)
    return folder
