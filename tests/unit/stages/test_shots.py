import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import RowErrors, SchemaError
from penstock.stages import shots
from penstock.stages.shots import Shots, turns
from penstock.testing.videos import moving, write_video


def cut(stage, *paths, **columns):
    table = pa.table({"id": [path.name for path in paths], "uri": [str(path) for path in paths], **columns})
    with stage.open() as transform:
        return transform(table)


def clips(stage, path, **columns):
    table = cut(stage, path, **columns)
    names = ("start_seconds", "stop_seconds", "clip_frames")
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Shots of 40, 50 and 30 frames: 1.6 s, 2 s and 1.2 s."""
    frames = [*moving(1, 40), *moving(2, 50), *moving(3, 30)]
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", frames)


def test_cuts_are_found_where_they_are(film):
    assert clips(Shots(), film) == [(0.0, 1.6, 40), (1.6, 3.6, 50), (3.6, 4.8, 30)]


def test_clips_are_numbered_and_keep_the_columns_of_their_video(film):
    table = cut(Shots(), film, film, place=["x", "y"])
    assert table["id"].to_pylist()[:3] == ["film.mp4@0.000", "film.mp4@1.600", "film.mp4@3.600"]
    assert table["clip"].to_pylist() == [0, 1, 2] * 2
    assert table["video"].to_pylist() == ["film.mp4"] * 6
    assert table["place"].to_pylist() == ["x"] * 3 + ["y"] * 3


def test_a_stride_cuts_at_its_length(film):
    found = clips(Shots("stride", stride_seconds=1.0, minimum_seconds=0.5), film)
    assert found == [(0.0, 1.0, 25), (1.0, 2.0, 25), (2.0, 3.0, 25), (3.0, 4.0, 25), (4.0, 4.8, 20)]


def test_what_remains_is_joined_to_the_clip_before(film):
    found = clips(Shots("stride", stride_seconds=2.0, minimum_seconds=1.0), film)
    assert found == [(0.0, 2.0, 50), (2.0, 4.8, 70)]


def test_no_clip_is_shorter_than_the_minimum(film):
    assert clips(Shots(minimum_seconds=1.8), film) == [(0.0, 4.8, 120)]
    assert clips(Shots(minimum_seconds=1.1), film) == clips(Shots(), film)


def test_long_shots_are_cut_at_the_maximum(film):
    found = clips(Shots(minimum_seconds=0.2, maximum_seconds=1.0), film)
    long = [(0.0, 1.0, 25), (1.0, 1.6, 15), (1.6, 2.6, 25), (2.6, 3.6, 25)]
    assert found in ([*long, (3.6, 4.6, 25), (4.6, 4.8, 5)], [*long, (3.6, 4.8, 30)])


def test_a_span_is_cut_alone(film):
    found = clips(Shots(minimum_seconds=0.1), film, start_seconds=[1.0], stop_seconds=[2.0])
    assert found == [(1.0, 1.6, 15), (1.6, 2.0, 10)]


def test_a_flash_is_no_cut(tmp_path):
    frames = moving(1, 60)
    for at in (30, 31):
        frames[at] = np.full_like(frames[at], 250)
    path = write_video(tmp_path / "flash.mp4", frames, options={"crf": "10"})
    assert clips(Shots(minimum_seconds=0.0), path) == [(0.0, 2.4, 60)]


def test_fast_motion_is_no_cut_and_a_cut_within_it_is_one(tmp_path):
    path = write_video(tmp_path / "fast.mp4", [*moving(1, 40, speed=24), *moving(2, 40, speed=24)])
    assert clips(Shots(), path) == [(0.0, 1.6, 40), (1.6, 3.2, 40)]


def test_a_video_shorter_than_the_minimum_is_one_clip(tmp_path):
    assert clips(Shots(), write_video(tmp_path / "short.mp4", moving(1, 3))) == [(0.0, 0.12, 3)]


def test_bad_videos_are_refused_and_the_others_cut(tmp_path, film):
    (tmp_path / "half.mkv").write_bytes(write_video(tmp_path / "x.mkv", moving(1, 100)).read_bytes()[:6000])
    with pytest.raises(RowErrors) as caught:
        cut(Shots(), tmp_path / "half.mkv", film)
    assert caught.value.bad["id"].to_pylist() == ["half.mkv"]
    assert "truncated" in caught.value.reasons[0]
    assert caught.value.good.num_rows == 3


class Shown:
    """A frame whose picture is a single number."""

    def __init__(self, at, value):
        self.seconds, self.until, self.value = at / 25, (at + 1) / 25, value


def cuts_by(values, monkeypatch, **changes):
    """The frames at which `turns` begins a shot, when a look at a frame gives a direction in the plane."""
    monkeypatch.setattr(shots.Scaler, "rgb", lambda self, picture, *shape: picture.value)
    settings = {"every": 0.2, "threshold": 0.3, "ratio": 3.0, **changes}
    look = lambda images: np.stack([np.cos(images), np.sin(images)], 1)  # noqa: E731
    seen = list(turns((Shown(at, value) for at, value in enumerate(values)), look, *settings.values()))
    assert [each.seconds for each in seen] == [at / 25 for at in range(len(values))], "each frame once"
    return [at for at, each in enumerate(seen) if each.cut]


@pytest.mark.parametrize("at", [13, 14, 15, 16, 19])
def test_a_turn_is_found_at_its_frame(at, monkeypatch):
    assert cuts_by([0.0] * at + [1.2] * (40 - at), monkeypatch) == [at]


def test_slow_and_steady_turns_and_flashes_are_no_cuts(monkeypatch):
    assert cuts_by(list(np.linspace(0, 1.5, 60)), monkeypatch) == []
    assert cuts_by([0.3 * at for at in range(60)], monkeypatch) == [], "as fast all the time"
    assert cuts_by([0.0] * 20 + [1.2] * 4 + [0.0] * 30, monkeypatch) == []
    assert cuts_by([], monkeypatch) == []
    assert cuts_by([0.0], monkeypatch) == []


def test_weights_are_told_where_a_network_looks():
    assert Shots().identity() == {}
    assert (Shots().weights_bytes(), Shots().licences()) == (0, ())
    assert Shots("feature").weights_bytes() > 10**6
    assert [licence.what for licence in Shots("feature").licences()] == ["efficientnet-lite0"]


def test_settings_and_columns_are_looked_at():
    with pytest.raises(ValueError, match="0 <= minimum <= maximum"):
        Shots(minimum_seconds=3, maximum_seconds=2)
    with pytest.raises(ValueError, match="stride_seconds is 0"):
        Shots(stride_seconds=0)
    with pytest.raises(ValueError, match="sample_seconds is -1"):
        Shots("feature", sample_seconds=-1)
    with pytest.raises(SchemaError, match="shots needs a column 'uri'; there are: id"):
        Shots().schema(pa.schema([("id", pa.string())]))


RSS = """
import resource, sys
import pyarrow as pa
from penstock.stages.shots import Shots
with Shots(maximum_seconds=2.0).open() as cut:
    for path in sys.argv[1:]:
        print(cut(pa.table({"id": ["v"], "uri": [path]})).num_rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_a_videos_length(tmp_path):
    """Twenty times the frames, 170 MB of them when decoded, in less than a tenth of that."""
    shot = moving(1, 50, 240, 320)
    short = write_video(tmp_path / "short.mp4", shot, options={"preset": "ultrafast"})
    long = write_video(tmp_path / "long.mp4", shot * 20, options={"preset": "ultrafast"})
    words = [sys.executable, "-c", RSS, short, long]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300)
    (few, before), (many, after) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (few, many) == (1, 20)
    assert (after - before) * 1024 < 50 * 20 * 240 * 320 * 1.5 / 5
