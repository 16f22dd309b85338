"""The stage gives what the solver gives, in rows."""

import numpy as np
import pyarrow as pa
import pytest

from penstock.core.batch import to_numpy
from penstock.errors import RowErrors, SchemaError
from penstock.flows import kolmogorov, operators
from penstock.stages.kolmogorov import Kolmogorov

SMALL = Kolmogorov(16, spin_up_seconds=1.0, every_seconds=0.5, snapshots=3, pair_seconds=0.1, wavenumber=2)


def run(stage, batch):
    with stage.open() as transform:
        return transform(batch)


def test_snapshots_are_those_of_the_solver():
    found = run(SMALL, pa.table({"seed": [7, 8], "viscosity": [0.02, 0.03], "name": ["a", "b"]}))
    assert found["seed"].to_pylist() == [7, 7, 7, 8, 8, 8]
    assert found.num_rows == 2 * SMALL.rows_per_row()
    assert found["name"].to_pylist() == ["a"] * 3 + ["b"] * 3
    assert found["time"].to_pylist() == [1.0, 1.5, 2.0] * 2
    assert found["viscosity"].to_pylist() == [0.02] * 3 + [0.03] * 3
    solver = kolmogorov.Kolmogorov(16, (0.03,), 0.02, wavenumber=2, precision="float32")
    state = solver.advance(solver.state(kolmogorov.random_start(16, 8)[None]), 1.5)
    assert (to_numpy(found["velocity"])[4] == solver.velocity(state)[0]).all()
    assert (to_numpy(found["later"])[4] == solver.velocity(solver.advance(state, 0.1))[0]).all()


def test_without_a_column_the_viscosity_is_the_stages():
    found = run(Kolmogorov(16, viscosity=0.04, spin_up_seconds=0.2), pa.table({"seed": [1]}))
    assert found["viscosity"].to_pylist() == [0.04]
    assert found.column_names == ["seed", "velocity", "time", "viscosity"]


def test_decaying_turbulence_loses_energy():
    stage = Kolmogorov(32, amplitude=0.0, drag=0.0, spin_up_seconds=0.0, every_seconds=1.0, snapshots=4, energy=0.8)
    energy = operators.kinetic_energy(to_numpy(run(stage, pa.table({"seed": [5]}))["velocity"]))
    assert energy[0] == pytest.approx(0.8, rel=1e-5)
    assert (np.diff(energy) < 0).all()


def test_many_rows_are_solved_in_groups_with_the_same_bits():
    stage = Kolmogorov(16, spin_up_seconds=0.2)
    batch = pa.table({"seed": list(range(37))})
    whole = to_numpy(run(stage, batch)["velocity"])
    assert (to_numpy(run(stage, batch.slice(30, 3))["velocity"]) == whole[30:33]).all()


def test_a_step_that_is_too_long_is_told_with_the_speed():
    stage = Kolmogorov(16, energy=0.5, spin_up_seconds=0.0, step_seconds=2.0, every_seconds=2.0, viscosity=0.1)
    with pytest.raises(RowErrors) as raised:
        run(stage, pa.table({"seed": [3]}))
    assert "take a shorter step: this one is stable to 0.233" in raised.value.reasons[0]
    assert "|u| + |v| reaches" in raised.value.reasons[0]


def test_a_row_that_explodes_does_not_take_the_others_along():
    with pytest.raises(RowErrors) as raised:
        run(SMALL, pa.table({"seed": [1, 2, 3], "viscosity": [0.02, -9.0, 0.02]}))
    assert raised.value.bad["seed"].to_pylist() == [2]
    assert raised.value.good["seed"].to_pylist() == [1] * 3 + [3] * 3
    assert raised.value.reasons[0].startswith("the flow explodes with step_seconds = 0.02")
    alone = run(SMALL, pa.table({"seed": [3], "viscosity": [0.02]}))
    assert (to_numpy(raised.value.good["velocity"])[3:] == to_numpy(alone["velocity"])).all()


def test_a_viscosity_of_another_type_is_refused():
    with pytest.raises(SchemaError, match="needs column 'viscosity' as double; it is string"):
        SMALL.schema(pa.schema([("seed", pa.int64()), ("viscosity", pa.string())]))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"resolution": 9}, "resolution is 9; an even number of 8 or more was needed"),
        ({"wavenumber": 40}, "wavenumber is 40; 1 to 21 was needed"),
        ({"snapshots": 0}, "snapshots of 1 or more"),
        ({"pair_seconds": 0.03}, "pair_seconds is 0.03; a multiple of step_seconds, 0.02, was needed"),
        ({"snapshots": 2, "pair_seconds": 20.0}, "pair_seconds is 20.0; at most every_seconds, 10.0, was needed"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        Kolmogorov(**settings)
