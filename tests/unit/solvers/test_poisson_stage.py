import numpy as np
import pyarrow as pa
import pytest

from penstock.clusters.local import Local
from penstock.core import spec
from penstock.core.batch import tensor_column, to_numpy
from penstock.core.ledger import identity_of
from penstock.errors import SchemaError
from penstock.solvers.poisson import Poisson
from penstock.solvers.reference import REFERENCE

TURN = 2 * np.pi


def solve(stage, reference):
    with stage.open() as transform:
        return transform(reference)


@pytest.fixture
def lattice():
    """Rows at all points of a 24 x 24 lattice in a square of length 2: a wave as mass, and as the embedding."""
    x, y = (axis.ravel() for axis in np.meshgrid(*[np.arange(24) / 12] * 2, indexing="ij"))
    wave = np.sin(TURN * x / 2) * np.cos(TURN * y / 2)
    return pa.table(
        {
            "place": tensor_column(np.stack([x, y], axis=1).astype(np.float32)),
            "mass": wave,
            "embedding": tensor_column(np.stack([wave, 2 * wave, 0.3 * wave], axis=1).astype(np.float32)),
        }
    )


def plain(here, **options):
    points = ("place[0]", "place[1]")
    return Poisson(**{"points": points, "period": (2.0, 2.0), "grid": 48, "width": 0.05, "cluster": here, **options})


def test_a_lattice_of_rows_forces_the_wave_that_their_values_make(lattice, published, here, tmp_path):
    stage = plain(here, forcing=("mass", "embedding[1]"))
    table = solve(stage, published(lattice))
    assert table.schema == stage.schema(REFERENCE)
    assert table["row"].to_pylist() == list(range(576))
    # Smoothed by a Gaussian of width 0.1 a wave of wave number k shrinks by exp(-k^2 0.1^2 / 2).
    square = 2 * (TURN / 2) ** 2
    exact = lattice["mass"].to_numpy() * np.exp(-square * 0.1**2 / 2) / square
    np.testing.assert_allclose(to_numpy(table["solution"]), np.stack([exact, 2 * exact], axis=1), atol=1e-7)
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("form", ["hdf5", "parquet"])
def test_the_grid_is_a_dataset_too(lattice, published, here, form):
    stage = plain(here, forcing=("mass",), mask="embedding[2]", screening=2.0, output="grid")
    table = solve(stage, published(lattice, form=form))
    assert table.schema == stage.schema(REFERENCE)
    assert table.num_rows == 48
    np.testing.assert_allclose(table["x"], np.arange(48) / 24)
    np.testing.assert_allclose(to_numpy(table["y"])[7], np.arange(48) / 24)
    forcing, solution, kappa = (to_numpy(table[name]) for name in ("forcing", "solution", "kappa"))
    assert forcing.shape == solution.shape == (48, 1, 48)
    np.testing.assert_allclose(np.log(kappa), 0.3 * forcing[:, 0], atol=1e-6)
    wave = 1j * np.fft.fftfreq(48, 2 / 48) * TURN

    def along(field, axis):
        return np.fft.ifft(np.fft.fft(field, axis=axis) * (wave[:, None] if axis == 0 else wave), axis=axis).real

    u = solution[:, 0]
    image = 2 * u - sum(along(kappa * along(u, axis), axis) for axis in (0, 1))
    np.testing.assert_allclose(image, forcing[:, 0], atol=1e-9)


def test_heat_that_has_spread_for_long_is_the_steady_state(lattice, published, here):
    reference = published(lattice)
    still = solve(plain(here, forcing=("mass",), grid=32), reference)
    later = solve(plain(here, forcing=("mass",), grid=32, time=3.0, steps=60), reference)
    early = solve(plain(here, forcing=("mass",), grid=32, time=0.01, steps=2), reference)
    np.testing.assert_allclose(to_numpy(later["solution"]), to_numpy(still["solution"]), atol=1e-8)
    assert np.abs(to_numpy(early["solution"])).max() < 0.2 * np.abs(to_numpy(still["solution"])).max()


def test_values_that_are_not_finite_are_named(lattice, published, here):
    mass = lattice["mass"].to_numpy().copy()
    mass[401] = np.nan
    reference = published(lattice.set_column(1, "mass", pa.array(mass)))
    with pytest.raises(ValueError, match="column 'mass' is not finite in row 401; mend or drop such rows"):
        solve(plain(here, forcing=("embedding[0]", "mass")), reference)


@pytest.mark.parametrize(
    ("forcing", "text"),
    [
        ("weight", "has no column 'weight'; there are: place, mass, embedding"),
        ("mass[0]", "column 'mass' of .* is double, no tensor; write 'mass'"),
        ("embedding", r"has 3 components, so 'embedding' is no number; write 'embedding\[0\]' up to 'embedding\[2\]'"),
        ("embedding[3]", "has 3 components, so"),
    ],
)
def test_columns_that_are_not_there_are_refused(lattice, published, here, forcing, text):
    with pytest.raises(SchemaError, match=text):
        solve(plain(here, forcing=(forcing,)), published(lattice))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"forcing": ()}, "forcing is empty; write forcing"),
        ({"grid": 15}, "grid must be even and 4 or more, not 15"),
        ({"width": 0.001}, "width must be from 1.5 cells of the grid, 0.01171.*, to 0.0625 of the period, not 0.001"),
        ({"width": 0.2}, "not 0.2"),
        ({"steps": 0}, "must not be negative, and steps 1 or more"),
        ({"screening": -1.0}, "must not be negative"),
        ({"mask": "\n"}, "names no column; write mass, or"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        Poisson(**options)


def test_where_it_runs_does_not_change_what_it_is():
    def identity(stage):
        return identity_of("stages", stage)["plain"]

    assert identity(Poisson(cluster=Local(tasks=3))) == identity(Poisson())
    assert identity(Poisson(output="grid")) != identity(Poisson())


def test_it_is_written_to_files_and_read_again():
    text = """
        source = { use = "dataset", uri = "x", whole = true }
        sink = { use = "hdf5", uri = "y" }
        [[step]]
        use = "poisson"
        points = ["place[0]", "place[1]"]
        forcing = ["embedding[0]", "embedding[7]"]
        mask = "density"
        period = [2.0, 1.0]
        cluster = { use = "local", tasks = 2 }
    """
    read = spec.loads(text)
    stage = read.pipelines[0].steps[0].stage
    assert (stage.forcing, stage.mask, stage.period) == (("embedding[0]", "embedding[7]"), "density", (2.0, 1.0))
    assert spec.loads(spec.dumps(read)) == read
