"""The Fluent example: fields to ready folders, which a program that stands in for Fluent then runs."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from penstock.core.batch import to_numpy
from penstock.core.reading import read_table
from penstock.formats.fluent import read_cloud, read_msh, read_profiles, to_foam

ROOT = Path(__file__).parents[2]
PENSTOCK = Path(sys.executable).parent / "penstock"


def test_fields_become_folders_that_are_ready_to_run(tmp_path):
    shutil.copytree(ROOT / "examples" / "fluent", tmp_path / "fluent", ignore=shutil.ignore_patterns("out"))
    folder = tmp_path / "fluent"
    done = subprocess.run([str(PENSTOCK), "run", str(folder / "pipeline.toml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    table = read_table(str(folder / "out" / "rows"))
    assert table["seed"].to_pylist() == [0, 1, 2, 3]
    centres = to_foam(read_msh(folder / "out" / "folders" / "channel.msh")).cell_centres
    for row, name in enumerate(table["folder"].to_pylist()):
        cloud = read_cloud(Path(name) / "initial.ip")
        np.testing.assert_allclose(cloud.points, centres, atol=1e-12)
        start = to_numpy(table["start"])[row]
        assert np.array_equal(cloud.fields["z-velocity"].astype(np.float32), start[2].ravel())
        (inlet,) = read_profiles(Path(name) / "inlet.prof")
        assert np.array_equal(inlet.fields["u"].astype(np.float32), start[0, :, :, 0].ravel())
        assert np.allclose(inlet.fields["x"], 0)
        assert '/file/read-case "../channel.msh"' in (Path(name) / "run.jou").read_text()


def test_the_examples_files_are_what_make_writes(tmp_path):
    shutil.copy(ROOT / "examples" / "fluent" / "make.py", tmp_path)
    subprocess.run([sys.executable, str(tmp_path / "make.py")], check=True)
    assert (tmp_path / "channel.msh").read_bytes() == (ROOT / "examples" / "fluent" / "channel.msh").read_bytes()
    ours, made = (pq.read_table(folder / "fields.parquet") for folder in (ROOT / "examples" / "fluent", tmp_path))
    assert made.equals(ours, check_metadata=True)
    assert made["seed"].to_pylist() == [0, 1, 2, 3]
    start, inlet = to_numpy(made["start"]), to_numpy(made["inlet"])
    assert start.shape == (4, 3, 6, 6, 8)
    assert np.isfinite(start).all()
    assert np.array_equal(start[..., 0], inlet)
