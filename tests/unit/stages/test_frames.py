import io
import weakref

import av
import numpy as np
import pyarrow as pa
import pytest

from penstock.core.batch import to_numpy
from penstock.errors import RowErrors, SchemaError
from penstock.formats.video import Video
from penstock.stages.frames import Frames
from penstock.stages.shots import Shots
from penstock.testing.videos import moving, write_video


def grey(level, height=64, width=64):
    return np.full((height, width, 3), level, np.uint8)


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    """Fifty frames, two seconds; each is four levels brighter than the one before."""
    frames = [grey(4 * at + 20) for at in range(50)]
    return write_video(tmp_path_factory.mktemp("ramp") / "ramp.mp4", frames, options={"crf": "1", "g": "10"})


def taken(stage, path, *spans):
    table = pa.table(
        {"uri": [str(path)] * len(spans), "start_seconds": [a for a, _ in spans], "stop_seconds": [b for _, b in spans]}
    )
    with stage.open() as transform:
        return transform(table)


def numbers(table):
    """Which frames of the ramp they are."""
    levels = to_numpy(table["frames"]).astype(float).mean(axis=(2, 3, 4))
    return np.rint((levels - 20) / 4).astype(int).tolist()


def naive(path, start, stop, count):
    """All frames in memory, and of each piece the one on the screen in its middle."""
    with av.open(str(path)) as file:
        times = [float(frame.pts * frame.time_base) for frame in file.decode(video=0)]
    middles = start + (np.arange(count) + 0.5) * (stop - start) / count
    return [max(at for at, time in enumerate(times) if time <= middle) for middle in middles]


def test_the_frames_in_the_middle_of_each_piece_are_taken(ramp):
    spans = [(0.0, 2.0), (0.4, 1.2), (1.04, 1.2), (1.48, 2.0), (0.2, 0.24)]
    table = taken(Frames(4, 32, 32), ramp, *spans)
    assert numbers(table) == [naive(ramp, *span, 4) for span in spans]


def test_keyframes_are_taken_where_there_are_enough(ramp):
    table = taken(Frames(3, 32, 32, pick="keyframes"), ramp, (0.0, 2.0), (0.0, 0.4))
    assert numbers(table) == [[10, 20, 40], naive(ramp, 0.0, 0.4, 3)], "middles are 8.3, 25 and 41.7"


def test_of_many_keyframes_few_are_held(tmp_path, monkeypatch):
    """In a video of keyframes alone, as cameras for cutting rooms write it, they are all frames."""
    path, held, most = write_video(tmp_path / "v.mp4", moving(1, 60), options={"g": "1"}), weakref.WeakSet(), []
    keyframes = Video.keyframes

    def watched(video, *span):
        for picture in keyframes(video, *span):
            held.add(picture)
            most.append(len(held))
            yield picture

    monkeypatch.setattr(Video, "keyframes", watched)
    taken(Frames(3, 32, 32, pick="keyframes"), path, (0.0, 2.4))
    assert len(most) == 60
    assert max(most) <= 6


def test_without_times_the_whole_video_is_a_clip(ramp):
    with Frames(2, 32, 32).open() as transform:
        table = transform(pa.table({"uri": [str(ramp)]}))
    assert numbers(table) == [[12, 37]]


def test_a_preview_is_the_whole_frame_in_the_middle(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving(1, 20, 96, 160))
    (data,) = taken(Frames(2, 32, 32, preview_height=48), path, (0.0, 0.8))["preview"].to_pylist()
    with av.open(io.BytesIO(data)) as file:
        image = next(file.decode(video=0))
    assert (image.height, image.width) == (48, 80)
    assert "preview" not in taken(Frames(2, 32, 32, preview_height=0), path, (0.0, 0.8)).column_names


def test_a_clip_that_is_not_there_costs_its_row(ramp, tmp_path):
    with pytest.raises(RowErrors) as caught:
        taken(Frames(2, 32, 32), ramp, (0.0, 0.4), (9.0, 10.0), (1.0, 1.6))
    assert caught.value.reasons == ["there is no frame between 9.000 s and 10.000 s"]
    assert numbers(caught.value.good) == [naive(ramp, 0.0, 0.4, 2), naive(ramp, 1.0, 1.6, 2)]


def test_settings_and_columns_are_looked_at():
    with pytest.raises(ValueError, match="count, height and width must be 1 or more"):
        Frames(count=0)
    with pytest.raises(SchemaError, match="frames needs a column 'uri'"):
        Frames().schema(pa.schema([("path", pa.string())]))


def test_damage_costs_the_clips_it_lies_in(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving(1, 100), options={"g": "25", "keyint_min": "25"})
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as file:
        index = file.streams.video[0].index_entries
        entry = index[60]
    data[entry.pos + 4 : entry.pos + entry.size] = bytes(entry.size - 4)
    path.write_bytes(bytes(data))
    with Shots("stride", stride_seconds=1.0).open() as cut:
        clips = cut(pa.table({"id": ["v"], "uri": [str(path)]}))
    assert clips.num_rows == 4
    with pytest.raises(RowErrors) as caught, Frames(2, 32, 32).open() as transform:
        transform(clips)
    assert caught.value.bad["start_seconds"].to_pylist() == [2.0]
    assert caught.value.good["start_seconds"].to_pylist() == [0.0, 1.0, 3.0]
