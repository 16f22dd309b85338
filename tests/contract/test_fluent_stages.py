"""The shipped suite over the stages that write folders for Ansys Fluent, and run it (a program that stands in)."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.clusters.local import Local
from penstock.core.batch import tensor_column
from penstock.formats.fluent import block, from_foam, write_case
from penstock.solvers.fluent import Fluent, FluentCase, Grid
from penstock.testing import StageTests

STAND_IN = Path(__file__).parents[1] / "unit" / "solvers" / "fluent_stand_in.py"
GRID = Grid("velocity", axes=((0, 1, 0), (1, 0, 0)))


@pytest.fixture
def case(tmp_path):
    write_case(tmp_path / "box.cas.h5", from_foam(block((2, 2, 1), (1, 1, 1), ("inlet", "outlet", *["walls"] * 4))))
    return str(tmp_path / "box.cas.h5")


class TestFluentCase(StageTests):
    batch = pa.table(
        {"velocity": tensor_column(np.random.default_rng(0).standard_normal((4, 2, 2, 2)).astype(np.float32))}
    )
    needs = ("velocity",)

    @pytest.fixture(autouse=True)
    def _made(self, case, tmp_path):
        self.stage = FluentCase(case=case, initial=GRID, folders=str(tmp_path / "out"))


class TestFluent(TestFluentCase):
    @pytest.fixture(autouse=True)
    def _made(self, case, tmp_path):
        program = tmp_path / "fluent"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
        program.chmod(0o755)
        self.stage = Fluent(case=case, initial=GRID, program=str(program), cluster=Local(folder=str(tmp_path / "jobs")))
