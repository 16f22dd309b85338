"""``penstock judge`` from a shell."""

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.core.nouns import Pipeline, Step
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.sources.seeds import Seeds
from penstock.stages.kolmogorov import Kolmogorov

STAGE = Kolmogorov(16, viscosity=0.05, wavenumber=2, spin_up_seconds=2.0, pair_seconds=0.02)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("flows")
    for name, start, stage in (
        ("mine", 0, STAGE),
        ("truth", 100, STAGE),
        ("fine", 0, Kolmogorov(24, spin_up_seconds=0.2)),
    ):
        Inline().run(Pipeline(name, Seeds(8, start), Parquet(str(root / name)), (Step(stage),)))
    return root


def judged(*arguments):
    return CliRunner().invoke(app, ["judge", *map(str, arguments)], env={"COLUMNS": "160"})


def test_a_judgement_is_a_table_and_a_page(datasets, tmp_path):
    page = tmp_path / "j.html"
    told = judged(
        datasets / "mine", "--truth", datasets / "truth", "--training", datasets / "mine", "--out", page,
        "--viscosity", 0.05, "--wavenumber", 2,
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    for words in ("generated (8)", "truth (8)", "random phase (8)", "equation residual", "nearest training field"):
        assert words in told.stdout
    assert "Judgement of mine" in page.read_text()


def test_solvers_are_followed_from_every_kind_of_start(datasets, tmp_path):
    page = tmp_path / "j.html"
    told = judged(
        datasets / "mine", "--truth", datasets / "truth", "--out", page, "--viscosity", 0.05, "--wavenumber", 2,
        "--steady-seconds", 1.0,
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    text = page.read_text()
    assert "Time to steady state" in text
    for name, members in (("generated", 8), ("truth", 8), ("random phase", 8), ("rest", 16)):
        assert f'<td>{name}</td><td class="n">{members}</td>' in text


def test_a_step_that_is_too_long_is_told(datasets, tmp_path):
    told = judged(
        datasets / "mine", "--truth", datasets / "truth", "--out", tmp_path / "j.html",
        "--steady-seconds", 50.0, "--step-seconds", 2.5, "--wavenumber", 2,
    )  # fmt: skip
    assert told.exit_code == 2
    assert "judge: a flow that starts from generated explodes with steps of 2.5 s; take shorter ones" in told.stderr


def test_another_grid_is_refused(datasets, tmp_path):
    told = judged(datasets / "fine", "--truth", datasets / "truth", "--out", tmp_path / "j.html")
    assert told.exit_code == 2
    assert "the generated fields are (2, 24, 24), the true ones (2, 16, 16); the same grid was needed" in told.stderr


def test_a_dataset_that_is_not_there_is_told(datasets, tmp_path):
    told = judged(tmp_path / "none", "--truth", datasets / "truth")
    assert told.exit_code == 1
    assert "none" in told.stderr
