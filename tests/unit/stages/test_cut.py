import hashlib
import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest

from penstock.core.storage import store_of
from penstock.errors import PlanError, RowErrors, SchemaError
from penstock.stages.cut import Cut
from penstock.testing.videos import moving, write_video

FRAMES = [*moving(1, 40), *moving(2, 50)]
SHORT_GROUPS = {"g": "10", "sc_threshold": "0"}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Ninety frames, 3.6 s, with a keyframe each 0.4 s."""
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", FRAMES, options=SHORT_GROUPS)


def clips(*spans, path, **more):
    columns = {"uri": [str(path)] * len(spans), "start_seconds": [a for a, _ in spans]}
    columns |= {"stop_seconds": [b for _, b in spans], **more}
    return pa.table(columns)


def written(stage, table):
    with stage.open() as transform:
        return transform(table).to_pylist()


def decoded(uri):
    """Times, and the frames themselves, ``"frame y x rgb"``."""
    with av.open(uri) as file:
        frames = list(file.decode(video=0))
    return [float(f.time) for f in frames], np.stack([f.to_ndarray(format="rgb24") for f in frames])


def test_a_clip_has_the_frames_of_its_span(film, tmp_path):
    rows = written(Cut(str(tmp_path)), clips((0.0, 1.6), (1.6, 3.6), (0.52, 1.0), (3.56, 3.6), path=film))
    _, whole = decoded(str(film))
    for row, (first, last) in zip(rows, [(0, 40), (40, 90), (13, 25), (89, 90)], strict=True):
        times, pixels = decoded(row["clip_uri"])
        assert times == pytest.approx(np.arange(last - first) / 25)
        assert np.abs(pixels.astype(float) - whole[first:last]).mean() < 8
    assert [row["clip_copied"] for row in rows] == [True, True, False, False]


def test_what_is_copied_loses_nothing(film, tmp_path):
    (row,) = written(Cut(str(tmp_path)), clips((0.4, 1.2), path=film))
    assert row["clip_copied"]
    assert np.array_equal(decoded(row["clip_uri"])[1], decoded(str(film))[1][10:30])


def test_open_groups_of_pictures_are_encoded(tmp_path):
    """Of a group that needs frames of the one before, a copy could not be decoded."""
    opened = {**SHORT_GROUPS, "x264-params": "open-gop=1:bframes=3:b-adapt=0"}
    path = write_video(tmp_path / "open.mp4", FRAMES, options=opened)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        starts = [float(p.pts * stream.time_base) for p in file.demux(stream) if p.pts is not None and p.is_keyframe]
    rows = written(Cut(str(tmp_path / "out")), clips(*zip(starts, [*starts[1:], 3.6], strict=True), path=path))
    counts = [len(decoded(row["clip_uri"])[0]) for row in rows]
    assert counts == [round(25 * (b - a)) for a, b in zip(starts, [*starts[1:], 3.6], strict=True)]


def test_files_are_named_by_their_content_and_come_out_the_same_again(film, tmp_path):
    table = clips((0.0, 1.6), (0.52, 1.0), path=film, preview=[b"jpeg", b"other"], id=["a", "b"])
    first = written(Cut(str(tmp_path)), table)
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert len(names) == 6
    assert written(Cut(str(tmp_path)), table) == first
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == names
    for row in first:
        data = Path(row["clip_uri"]).read_bytes()
        assert Path(row["clip_uri"]).name == f"{hashlib.sha256(data).hexdigest()}.mp4"
        assert (row["clip_sha256"], row["clip_bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
        assert Path(row["preview_uri"]).read_bytes() == row["preview"]


def test_metadata_are_the_rows_plain_values(film, tmp_path):
    table = clips((0.0, 1.6), path=film, id=["a"], vector=[[1.0, 2.0]], sharpness=[3.5])
    (row,) = written(Cut(str(tmp_path)), table)
    told = json.loads(Path(row["metadata_uri"]).read_text())
    names = ("clip_sha256", "clip_bytes", "clip_copied")
    given = {"uri": str(film), "start_seconds": 0.0, "stop_seconds": 1.6, "id": "a", "sharpness": 3.5}
    assert told == {**given, **{name: row[name] for name in names}}
    assert row["preview_uri"] is None


def test_metadata_are_json_whatever_the_numbers(film, tmp_path):
    (row,) = written(Cut(str(tmp_path)), clips((0.0, 0.4), path=film, sharpness=[float("nan")]))
    told = json.loads(Path(row["metadata_uri"]).read_text(), parse_constant=pytest.fail)
    assert told["sharpness"] is None


def test_rows_that_are_not_wanted_get_no_file(film, tmp_path):
    table = clips((0.0, 0.4), (0.4, 0.8), (0.8, 1.2), path=film, keep=[False, True, None])
    rows = written(Cut(str(tmp_path), where="keep"), table)
    assert [row["clip_uri"] is None for row in rows] == [True, False, True]
    assert len(list(tmp_path.glob("*.mp4"))) == 1


def test_sound_goes_along(tmp_path):
    path = write_video(tmp_path / "film.mp4", FRAMES, options=SHORT_GROUPS, sound_seconds=3.6)
    for span in ((1.2, 2.4), (1.0, 2.4)):
        (row,) = written(Cut(str(tmp_path / "out")), clips(span, path=path))
        with av.open(row["clip_uri"]) as file:
            sound = [frame.samples for frame in file.decode(audio=0)]
        assert sum(sound) / 16000 == pytest.approx(span[1] - span[0], abs=0.15)
    (row,) = written(Cut(str(tmp_path / "out"), sound="none"), clips((1.2, 2.4), path=path))
    with av.open(row["clip_uri"]) as file:
        assert not file.streams.audio


@pytest.mark.parametrize("span", [(0.0, 0.4), (0.2, 0.6)])
def test_turned_videos_stay_turned(tmp_path, span):
    path = write_video(tmp_path / "film.mov", moving(1, 30), options=SHORT_GROUPS, rotation=90)
    (row,) = written(Cut(str(tmp_path / "out")), clips(span, path=path))
    with av.open(row["clip_uri"]) as file:
        assert next(file.decode(video=0)).rotation == 90


@pytest.mark.parametrize(("name", "codec"), [("v.avi", "mpeg4"), ("v.ts", "mpeg2video"), ("v.mkv", "libx264")])
def test_other_containers_become_mp4(tmp_path, name, codec):
    path = write_video(tmp_path / name, FRAMES, codec=codec)
    (row,) = written(Cut(str(tmp_path / "out")), clips((1.6, 3.6), path=path))
    assert len(decoded(row["clip_uri"])[0]) == 50


def test_the_full_range_of_a_webcam_stays_as_bright(tmp_path):
    bright = [np.full((96, 128, 3), 240, np.uint8)] * 10
    path = write_video(tmp_path / "v.avi", bright, codec="mjpeg")
    (row,) = written(Cut(str(tmp_path / "out")), clips((0.04, 0.2), path=path))
    assert not row["clip_copied"]
    assert abs(decoded(row["clip_uri"])[1].astype(float) - 240).max() <= 4


def test_mpeg4_takes_the_fine_times_of_a_transport_stream(tmp_path):
    path = write_video(tmp_path / "v.ts", moving(1, 30), codec="mpeg2video")
    (row,) = written(Cut(str(tmp_path / "out"), codec="mpeg4", options=()), clips((0.2, 1.0), path=path))
    assert decoded(row["clip_uri"])[0] == pytest.approx(np.arange(20) / 25)


@pytest.mark.parametrize(
    ("codec", "options", "said"),
    [("libx264", (("crf", "banana"),), "crf = banana"), ("aac", (), "no options")],
)
def test_an_encoder_that_does_not_start_is_no_fault_of_the_videos(tmp_path, codec, options, said):
    reason = f"the encoder '{codec}' does not start with {said}: .* an encoder of video was needed"
    with pytest.raises(PlanError, match=reason), Cut(str(tmp_path), codec=codec, options=options).open():
        pass


def test_a_clip_that_is_not_there_costs_its_row(film, tmp_path):
    with pytest.raises(RowErrors) as caught:
        written(Cut(str(tmp_path)), clips((0.0, 0.4), (7.0, 8.0), path=film))
    assert caught.value.reasons == ["there is no frame between 7.000 s and 8.000 s"]
    assert caught.value.good.num_rows == 1
    assert len(list(tmp_path.glob("*.mp4"))) == 1
    assert not list((tmp_path / ".tmp").iterdir())


def test_clips_go_to_objects(film, s3_root):
    (row,) = written(Cut(f"{s3_root}/mp4"), clips((0.0, 0.4), path=film))
    data = store_of(s3_root).read(row["clip_uri"])
    assert row["clip_uri"] == f"{s3_root}/mp4/{hashlib.sha256(data).hexdigest()}.mp4"


def test_settings_and_columns_are_looked_at(film):
    given = clips((0.0, 1.0), path=film).schema
    with pytest.raises(SchemaError, match="cut needs a column 'keep'"):
        Cut("out", where="keep").schema(given)
    with pytest.raises(SchemaError, match="cut needs a column 'stop_seconds'"):
        Cut("out").schema(pa.schema([("uri", pa.string()), ("start_seconds", pa.float64())]))
    with pytest.raises(PlanError, match="no encoder 'h264_future'"), Cut("out", codec="h264_future").open():
        pass
