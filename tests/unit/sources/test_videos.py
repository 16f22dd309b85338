import numpy as np
import pyarrow as pa
import pytest

from penstock.core.storage import store_of
from penstock.errors import RowErrors, SpecError, StorageError
from penstock.sources.videos import Videos
from penstock.stages.shots import Shots
from penstock.testing.videos import moving, write_video


def rows(source):
    """The good rows of all units, and the reasons by name."""
    good, bad = [source.schema().empty_table()], {}
    for unit in source.units():
        try:
            good.append(source.read(unit))
        except RowErrors as errors:
            good.append(errors.good)
            bad |= dict(zip(errors.bad["id"].to_pylist(), errors.reasons, strict=True))
    return pa.concat_tables(good), bad


def test_a_row_says_what_the_file_says(tmp_path):
    path = write_video(tmp_path / "v.mkv", moving(1, 30))
    (row,) = rows(Videos(str(path.parent)))[0].to_pylist()
    etag = store_of(str(path)).entry(str(path)).etag
    assert row == {
        "id": "v.mkv",
        "uri": str(path),
        "etag": etag,
        "container": "matroska",
        "codec": "h264",
        "width": 128,
        "height": 96,
        "frame_rate": 25.0,
        "duration_seconds": 1.2,
        "frame_count": None,
        "start_seconds": 0.0,
        "stop_seconds": None,
    }


@pytest.mark.parametrize("spelling", ["./films", "~/films", "films/*/*.mp4"])
def test_names_tell_files_apart_however_the_folder_is_spelt(tmp_path, monkeypatch, spelling):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a", "b"):
        (tmp_path / "films" / name).mkdir(parents=True)
        write_video(tmp_path / "films" / name / "v.mp4", moving(1, 2))
    assert rows(Videos(spelling))[0]["id"].to_pylist() == ["a/v.mp4", "b/v.mp4"]


def test_names_are_paths_below_the_folder(tmp_path):
    (tmp_path / "a").mkdir()
    write_video(tmp_path / "a" / "v.mp4", moving(1, 5))
    write_video(tmp_path / "w.mp4", moving(1, 5))
    (tmp_path / "notes.txt").write_text("no video")
    assert rows(Videos(f"{tmp_path}/"))[0]["id"].to_pylist() == ["a/v.mp4", "w.mp4"]
    assert rows(Videos(str(tmp_path / "w.mp4")))[0]["id"].to_pylist() == ["w.mp4"]


def test_bad_files_cost_a_row_each_and_no_unit(tmp_path):
    write_video(tmp_path / "good.mp4", moving(1, 5))
    write_video(tmp_path / "half.mp4", moving(1, 50), container={"movflags": "+faststart"})
    (tmp_path / "half.mp4").write_bytes((tmp_path / "half.mp4").read_bytes()[:3000])
    (tmp_path / "noise.mov").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "nothing.avi").write_bytes(b"")
    good, bad = rows(Videos(str(tmp_path)))
    assert good["id"].to_pylist() == ["good.mp4"]
    assert list(bad) == ["half.mp4", "noise.mov", "nothing.avi"]
    assert "truncated" in bad["half.mp4"]
    assert bad["nothing.avi"] == "the file is empty"


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_a_video_without_a_frame_is_quarantined(tmp_path, name):
    write_video(tmp_path / name, [])
    good, bad = rows(Videos(str(tmp_path)))
    assert good.num_rows == 0
    assert list(bad) == [name]


def test_spans_of_a_large_file_hold_each_frame_once(tmp_path):
    path = write_video(tmp_path / "v.mp4", [*moving(1, 40), *moving(2, 60)])
    source = Videos(str(tmp_path), span_bytes=path.stat().st_size // 5)
    table, bad = rows(source)
    assert not bad
    assert table.num_rows == 6
    edges = table["start_seconds"].to_pylist()
    assert table["stop_seconds"].to_pylist() == [*edges[1:], None]
    with Shots(minimum_seconds=0.0).open() as cut:
        clips = cut(table)
    assert sum(clips["clip_frames"].to_pylist()) == 100
    assert 1.6 in clips["start_seconds"].to_pylist(), "the true cut is among those of the spans"


def test_a_bad_large_file_is_told_of_once(tmp_path):
    (tmp_path / "noise.mov").write_bytes(np.random.default_rng(0).bytes(5000))
    source = Videos(str(tmp_path), span_bytes=1000)
    assert len(list(source.units())) == 5
    good, bad = rows(source)
    assert good.num_rows == 0
    assert len(bad) == 1


def test_settings_and_places_are_looked_at(tmp_path):
    with pytest.raises(SpecError, match="span_bytes and most_pixels must be 1 or more"):
        Videos(str(tmp_path), span_bytes=0)
    with pytest.raises(SpecError, match="the steps that decode take 67108864 at most"):
        Videos(str(tmp_path), most_pixels=1 << 27)
    with pytest.raises(StorageError, match=r"there is no file that ends with \.mp4"):
        list(Videos(str(tmp_path)).units())


def test_objects_are_read_as_files_are(tmp_path, s3_root):
    path = write_video(tmp_path / "v.mp4", moving(1, 10))
    here = rows(Videos(str(tmp_path)))[0]
    store_of(s3_root).upload(path, f"{s3_root}/v.mp4")
    there = rows(Videos(s3_root))[0]
    plain = [name for name in here.column_names if name not in ("uri", "etag")]
    assert there.select(plain).equals(here.select(plain))
