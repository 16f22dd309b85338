"""The video example: eleven files become shots, near-duplicates and clips; the truth about each of them is known."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from penstock.core.batch import to_numpy
from penstock.core.reading import read_table
from penstock.core.verify import verify

EXAMPLE = Path(__file__).parents[2] / "examples" / "video"
PENSTOCK = str(Path(sys.executable).parent / "penstock")
pytestmark = pytest.mark.timeout(1800)  # half a minute on two free cores
BROKEN = {"truncated.mp4", "garbage.mp4", "empty.mov", "damaged.mov"}


def command(file, *only):
    words = [PENSTOCK, "run", str(file), "--set=pipeline.shots.step.1.count=3"]
    return [*words, *(f"--only={name}" for name in only)]


def run(words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def killed_while_cutting(file, clips):
    """Start the last pipeline, and kill its driver as soon as a clip is there."""
    words = [*command(file, "clips"), "--runner=inline"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 600
        while not any(clips.glob("*.mp4")) and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        driver.kill()


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The example, run; its last pipeline is killed among the clips and started again."""
    folder = tmp_path_factory.mktemp("video")
    file, out = folder / "pipeline.toml", folder / "out"
    file.write_bytes((EXAMPLE / "pipeline.toml").read_bytes())
    run([sys.executable, str(EXAMPLE / "make.py"), str(folder / "videos")])
    run([*command(file, "shots", "duplicates"), "--set=runner.cpus=2"])  # which one core can be as well
    killed_while_cutting(file, out / "mp4")
    run([*command(file), "--runner=inline"])
    truth = json.loads((folder / "videos" / "truth.json").read_text())
    rows = read_table(str(out / "clips")).to_pylist()
    return SimpleNamespace(folder=folder, file=file, out=out, rows=rows, truth=truth)


def told(story, row):
    """The shot of the truth that begins when *row* does."""
    (shot,) = (shot for shot in story.truth[row["video"]] if shot["begins"] == round(row["start_seconds"], 3))
    return shot


def test_the_cuts_are_where_they_are(story):
    found = {(row["video"], round(row["start_seconds"], 3)) for row in story.rows}
    assert found == {(name, shot["begins"]) for name, film in story.truth.items() for shot in film}
    assert all(row["clip_frames"] == round(25 * told(story, row)["seconds"]) for row in story.rows)


def test_broken_files_are_quarantined_with_a_reason(story):
    paths = (story.out / "shots" / "quarantine").rglob("*.parquet")
    files = [pq.read_table(path, columns=["uri", "_error"]) for path in paths]
    reasons = {Path(row["uri"]).name: row["_error"] for file in files for row in file.to_pylist()}
    assert set(reasons) == BROKEN
    assert "truncated" in reasons["truncated.mp4"]
    assert "cannot be read as a video" in reasons["garbage.mp4"]
    assert "the file is empty" in reasons["empty.mov"]
    assert "cannot be decoded" in reasons["damaged.mov"] or "is damaged" in reasons["damaged.mov"]


def test_poor_shots_are_dropped_for_what_they_are(story):
    found = {told(story, row)["look"]: row["reason"] for row in story.rows if row["reason"]}
    assert found == {"dark": "dark", "blurred": "blurred", "still": "still"}
    assert not any(row["keep"] for row in story.rows if row["reason"])


def test_of_each_group_of_duplicates_one_is_kept(story):
    """Exact copies, and one in another codec, size and container, and a brighter one."""
    names = {}
    for row in story.rows:
        film = [shot["begins"] for shot in story.truth[row["video"]]]
        here = f"{row['video']}:{film.index(round(row['start_seconds'], 3))}"
        names[row["row"]] = told(story, row)["like"] or here
    groups = {}
    for row in story.rows:
        if not row["reason"]:
            groups.setdefault(names[row["row"]], []).append(row)
    assert sorted(len(group) for group in groups.values()) == [1, 1, 1, 1, 1, 2, 2, 2, 3]
    for group in groups.values():
        (kept,) = (row for row in group if row["keep"])
        assert {row["duplicate_of"] for row in group} <= {None, kept["row"]}
        assert all(row["similarity"] >= 0.97 for row in group if not row["keep"])


def test_kept_clips_are_there_exactly_once_and_can_be_played(story):
    kept = [row for row in story.rows if row["keep"]]
    assert len(kept) == 9
    files = {path.name for path in (story.out / "mp4").iterdir() if path.is_file()}
    assert files == {f"{row['clip_sha256']}{end}" for row in kept for end in (".mp4", ".jpg", ".json")}
    assert len({row["clip_uri"] for row in kept}) == len(kept)
    for row in kept:
        with av.open(row["clip_uri"]) as file:
            assert sum(1 for _ in file.decode(video=0)) == row["clip_frames"]
        assert json.loads(Path(row["metadata_uri"]).read_text())["id"] == row["id"]
    assert all(row["clip_uri"] is None for row in story.rows if not row["keep"])


def test_clips_carry_their_vectors(story):
    """Those of the shots that they were, also of the dropped ones."""
    shots = read_table(str(story.out / "shots"))
    wanted = dict(zip(shots["id"].to_pylist(), to_numpy(shots["embedding"]), strict=True))
    clips = read_table(str(story.out / "clips"))
    found = to_numpy(clips["embedding"])
    assert found.shape == (17, 1280)
    np.testing.assert_array_equal(found, [wanted[name] for name in clips["id"].to_pylist()])


def test_the_report_of_the_run_shows_the_clips(story):
    page = (story.folder / "report.html").read_text()
    section = page.split('<section id="gallery">')[1].split('<section id="runs">')[0]
    for title in ("Near-duplicates, side by side", "Kept", "Dropped: near-duplicates", "Dropped: dark"):
        assert f"<h3>{title}</h3>" in section
    assert section.count("data:image/jpeg;base64,") >= 17


def test_every_dataset_is_whole_and_nothing_is_done_twice(story):
    for name in ("shots", "duplicates", "clips"):
        assert verify(str(story.out / name)).rows == 17
    before = {path.name: path.stat().st_mtime_ns for path in (story.out / "mp4").iterdir()}
    said = run([*command(story.file, "clips"), "--runner=inline"])
    assert "1 units (1 were done before)" in said
    assert {path.name: path.stat().st_mtime_ns for path in (story.out / "mp4").iterdir()} == before
