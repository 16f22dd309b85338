"""Small cases of our own, run by the real OpenFOAM."""

import re
import shutil
from pathlib import Path

import pytest

from penstock.clusters.local import Local
from penstock.solvers.openfoam.case import prepared, run

CASES = Path(__file__).parents[3] / "examples" / "flow"


def copied(name, to, cells):
    """An example case with other numbers of cells, and its mesh."""
    for part in ("system", "constant", "0"):
        shutil.copytree(CASES / name / part, to / part)
    text = (to / "system" / "blockMeshDict").read_text()
    (to / "system" / "blockMeshDict").write_text(re.sub(r"\(\d+ \d+ 1\) simple", f"({cells} 1) simple", text))
    prepared(to)
    return to


def ran(case, *command):
    """Run a program that must end well; what it printed."""
    text, why = run(command, case)
    assert why == "", text[-2000:]
    return text


@pytest.fixture(scope="session")
def box(tmp_path_factory):
    """A periodic box of 16 x 16 cells."""
    return copied("box", tmp_path_factory.mktemp("box") / "case", "16 16")


@pytest.fixture(scope="session")
def channel(tmp_path_factory):
    """A channel of 24 x 8 cells."""
    return copied("channel", tmp_path_factory.mktemp("channel") / "case", "24 8")


@pytest.fixture
def cluster(tmp_path):
    return Local(folder=str(tmp_path / "jobs"))
