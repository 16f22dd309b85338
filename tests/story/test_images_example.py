"""examples/images from photographs to neighbours, as a user runs it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from penstock.core.batch import to_numpy
from penstock.core.dataset import existing
from penstock.core.reading import read_table
from penstock.core.verify import verify

EXAMPLE = Path(__file__).parents[2] / "examples" / "images"
PENSTOCK = Path(sys.executable).parent / "penstock"
pytestmark = pytest.mark.timeout(1800)  # seconds on two free cores


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("images") / "images"
    shutil.copytree(EXAMPLE, found, ignore=shutil.ignore_patterns("out", "photos", "report.html"))
    subprocess.run([sys.executable, str(found / "photos.py"), str(found / "photos")], check=True, timeout=600)
    done = subprocess.run(
        [str(PENSTOCK), "run", str(found / "pipeline.toml")], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return found


def test_every_photo_is_a_row_and_the_broken_file_is_put_aside(folder):
    table = read_table(str(folder / "out" / "embeddings"))
    files = sorted(path.relative_to(folder / "photos").as_posix() for path in folder.rglob("photos/*/*.jpg"))
    assert table["id"].to_pylist() == files
    assert len(files) == 24
    np.testing.assert_allclose(np.linalg.norm(to_numpy(table["embedding"]), axis=1), 1, rtol=1e-5)
    (bad,) = (folder / "out" / "embeddings" / "quarantine").rglob("*.parquet")
    (row,) = pq.read_table(bad).to_pylist()
    assert row["id"] == "broken.jpg"
    assert row["_error"].endswith("is no image that Pillow knows: 16 bytes, the first are b'this is '")


def test_the_nearest_of_a_crop_are_of_the_same_photo(folder):
    photos = np.array([name.split("/")[0] for name in read_table(str(folder / "out" / "embeddings"))["id"].to_pylist()])
    graph = read_table(str(folder / "out" / "neighbours"))
    nearest = to_numpy(graph["neighbour"])
    assert nearest.shape == (24, 3)
    assert (photos[nearest] == photos[:, None]).mean() >= 0.95


def test_every_dataset_is_as_committed(folder):
    for name in ("embeddings", "arrays", "neighbours"):
        verify(str(folder / "out" / name))
    assert json.loads((folder / "out" / "embeddings" / "manifest.json").read_text())
    assert existing(str(folder / "out" / "arrays")).rows == 24
