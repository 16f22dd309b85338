"""Another's package with a source, a stage, a sink and a cluster: built, installed elsewhere, tested and run there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from penstock.core.plugins import KINDS, named

PACKAGE = Path(__file__).parents[2] / "examples" / "own_package"
PENSTOCK = Path(sys.executable).with_name("penstock")
pytestmark = pytest.mark.timeout(1800)  # far less on two free cores
LINES = 150


def run(folder: Path, *words: str, **environment: str) -> str:
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The package in a folder of its own, and one to work in."""
    root = tmp_path_factory.mktemp("lab")
    ignored = shutil.ignore_patterns("out", "report.html", "__pycache__", "dist", "build")
    shutil.copytree(PACKAGE, root / "tree", ignore=ignored)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(
        root,
        *pip,
        "wheel",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--wheel-dir",
        "wheels",
        str(root / "tree"),
    )
    [wheel] = (root / "wheels").iterdir()
    run(root, *pip, "install", "--no-deps", "--no-index", "--target", "installed", str(wheel))
    work = root / "work"
    work.mkdir()
    for name in ("tests", "pipeline.toml", "spectra.mgf"):
        (root / "tree" / name).rename(work / name)
    shutil.rmtree(root / "tree")
    return SimpleNamespace(work=work, run=lambda *words: run(work, *words, PYTHONPATH=str(root / "installed")))


def test_it_has_few_lines():
    lines = [line for path in PACKAGE.rglob("src/**/*.py") for line in path.read_text().splitlines()]
    assert 0 < len(lines) < LINES


def test_it_passes_the_shipped_suites(lab):
    said = lab.run(sys.executable, "-m", "pytest", "tests", "-q", "-p", "no:cacheprovider")
    assert int(re.search(r"(\d+) passed", said)[1]) > 60
    assert not re.search(r"skipped|xfailed|deselected|warning", said), said


def test_its_parts_are_listed_beside_the_built_in_ones(lab):
    said = lab.run(str(PENSTOCK), "list")
    assert all(name in said.split() for name in ("mgf", "binned", "npz", "within"))
    assert not {"mgf", "binned", "npz", "within"} & {name for kind in KINDS for name in named(kind)}


def test_its_pipeline_runs_and_numpy_alone_reads_the_families(lab):
    lab.run(str(PENSTOCK), "run", "pipeline.toml")
    assert "24 rows" in lab.run(str(PENSTOCK), "verify", "out/spectra")
    lab.run(str(PENSTOCK), "run", "pipeline.toml")
    wanted = list(naive_spectra(lab.work / "spectra.mgf"))
    [spectra] = parts(lab.work / "out" / "spectra")
    assert spectra["title"].tolist() == [title for title, _ in wanted]
    assert spectra["spectrum"] == pytest.approx(np.array([vector for _, vector in wanted]), abs=1e-6)
    [families] = parts(lab.work / "out" / "families")
    peptides = [re.sub(r"\[.*?\]|/.*", "", title) for title in families["title"].tolist()]
    pairs = set(zip(peptides, families["component"].tolist(), strict=True))
    assert len(peptides) == 24
    assert len(pairs) == len({peptide for peptide, _ in pairs}) == len({family for _, family in pairs}) == 8


def test_what_is_no_format_of_an_installed_package_is_told(lab):
    done = subprocess.run([PENSTOCK, "verify", "out/spectra"], cwd=lab.work, capture_output=True, text=True)
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert "install the package whose sink is called 'npz' and has `read_part`" in said


def parts(folder):
    return [np.load(path) for path in (folder / "parts").iterdir()]


def naive_spectra(path):
    """Titles, and roots of binned intensities over their length, one peak after the other."""
    for record in path.read_text().split("END IONS")[:-1]:
        vector = [0.0] * 1400
        for line in record.split("\n"):
            if re.fullmatch(r"[\d.]+ \d+", line):
                mz, height = map(float, line.split())
                if 100 <= mz < 100 + 1400 * 1.0005:
                    vector[int((mz - 100) / 1.0005)] += height
        length = sum(vector) ** 0.5
        yield re.search("TITLE=(.*)", record)[1], [height**0.5 / length for height in vector]
