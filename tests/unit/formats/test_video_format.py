import gc
import io
import math
import weakref
from fractions import Fraction

import av
import numpy as np
import pytest

from penstock.core.storage import store_of
from penstock.errors import StorageError
from penstock.formats.video import Scaler, Unplayable, jpeg, opened
from penstock.testing.videos import moving, write_video


def times(path, start=0.0, stop=math.inf):
    with opened(str(path)) as video:
        return [picture.seconds for picture in video.between(start, stop)]


@pytest.mark.parametrize(
    ("name", "codec"), [("v.mp4", "libx264"), ("v.mkv", "libx264"), ("v.avi", "mpeg4"), ("v.ts", "mpeg2video")]
)
def test_frames_of_a_span_are_those_of_the_whole_between_its_ends(tmp_path, name, codec):
    path = write_video(tmp_path / name, moving(1, 60), codec=codec, options={"g": "12"})
    whole = times(path)
    assert whole == pytest.approx(np.arange(60) / 25)
    for start, stop in ((0.0, 0.4), (whole[12], whole[40]), (whole[31], whole[32]), (whole[59], math.inf), (3.0, 4.0)):
        assert times(path, start, stop) == [at for at in whole if start <= at < stop]


def test_spans_that_follow_one_another_are_decoded_in_one_go(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving(1, 50))
    with opened(str(path)) as video:
        jumps = []
        video.jump = lambda *place, jump=video.jump: (jumps.append(place), jump(*place))
        spans = (0.0, 0.4), (0.4, 1.2), (1.2, 2.0), (0.4, 0.48)
        found = [len(list(video.between(*span))) for span in spans]
    assert found == [10, 20, 20, 2]
    assert len(jumps) == 2, "at the beginning, and back at the end"


def test_keyframes_are_found_without_decoding_the_others(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving(1, 60), options={"g": "10", "sc_threshold": "0"})
    with opened(str(path)) as video:
        assert [p.seconds for p in video.keyframes(0.3, 1.7)] == pytest.approx([0.4, 0.8, 1.2, 1.6])
        assert len(list(video.between(0.0))) == 60


@pytest.mark.parametrize(
    ("name", "codec"), [("v.mp4", "libx264"), ("v.mkv", "libx264"), ("v.avi", "mpeg4"), ("v.ts", "mpeg2video")]
)
def test_times_are_known_without_decoding(tmp_path, name, codec):
    path = write_video(tmp_path / name, moving(1, 60), codec=codec, options={"g": "12"})
    with opened(str(path)) as video:
        for start, stop in ((0.0, math.inf), (0.52, 1.48)):
            wanted = [(p.seconds, p.until) for p in video.between(start, stop)]
            assert list(video.moments(start, stop)) == wanted


def test_a_closed_video_lets_go_of_its_decoder(tmp_path):
    """At once, and not when the garbage collector comes by: a decoder holds a dozen frames."""
    path = write_video(tmp_path / "v.mp4", moving(1, 20))
    gc.disable()
    try:
        with opened(str(path)) as video:
            seen, gone = next(video.between(0.0)).seconds, weakref.ref(video)
        del video
        assert seen == 0.0
        assert gone() is None
    finally:
        gc.enable()


def test_facts_are_what_the_file_says(tmp_path):
    write_video(tmp_path / "v.mp4", moving(1, 50, 96, 160), sound_seconds=3.0)
    with opened(str(tmp_path / "v.mp4")) as video:
        facts = video.facts()
    assert (facts.container, facts.codec, facts.width, facts.height) == ("mov", "h264", 160, 96)
    assert (facts.frame_rate, facts.duration_seconds, facts.frame_count) == (25, 2.0, 50)


def cut_in_half(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_a_truncated_file_is_known_by_its_directory(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving(1, 60), container={"movflags": "+faststart"})
    cut_in_half(path)
    reason = r"its last frame ends at byte .*truncated; copy it again"
    with opened(str(path)) as video, pytest.raises(Unplayable, match=reason):
        video.facts()


def test_a_truncated_file_without_a_directory_is_known_by_its_end(tmp_path):
    path = write_video(tmp_path / "v.mkv", moving(1, 100))
    cut_in_half(path)
    with pytest.raises(Unplayable, match=r"it ends at .* s, 4.000 s are promised: it is truncated"):
        times(path)


@pytest.mark.parametrize("name", ["v.mkv", "sound.mkv"])
def test_matroska_may_begin_late(tmp_path, name):
    """Its word for the length is the time of the end: a recording from the third second on is whole."""
    path = late(tmp_path / name, 75, sound="sound" in name)
    with opened(str(path)) as video:
        assert video.facts().duration_seconds == pytest.approx(2.0, abs=0.05)
        assert [picture.seconds for picture in video.between(0.0)] == pytest.approx(np.arange(50) / 25)
        assert len(list(video.moments(0.0, math.inf))) == 50


def late(path, first, *, sound):
    """Fifty frames, of which the first stands at number *first*."""
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        tone = target.add_stream("aac", rate=16000) if sound else None
        for at, pixels in enumerate(moving(1, 50)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = first + at, Fraction(1, 25)
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
        if tone:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            target.mux([*tone.encode(frame), *tone.encode()])
    return path


def test_frames_whose_times_go_back_are_not_lost_in_silence(tmp_path):
    """AVI holds no times of its own, so B-frames of H.264 come out with those of their neighbours."""
    path = write_video(tmp_path / "v.avi", moving(1, 60), options={"bf": "2"})
    with pytest.raises(Unplayable, match=r"says 0\.\d+ s: its times go back, as of H.264 with B-frames in AVI"):
        times(path)


def test_damage_in_the_middle_is_told_with_its_time(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving(1, 100), options={"g": "25"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(bytes(data))
    with pytest.raises(Unplayable, match=r"(what follows|the frame at) \d\.\d+ s"):
        times(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"GIF it is not" * 500, "it cannot be read as a video of 6,500 bytes")],
)
def test_what_is_no_video_is_refused(tmp_path, content, reason):
    (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(Unplayable, match=reason), opened(str(tmp_path / "v.mp4")):
        pass


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "v.mp4"), "w") as target:
        stream = target.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        target.mux(stream.encode(frame))
        target.mux(stream.encode())
    reason = "there is no video stream in it, only: audio"
    with pytest.raises(Unplayable, match=reason), opened(str(tmp_path / "v.mp4")):
        pass


def test_too_large_frames_are_refused_before_they_are_decoded(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving(1, 2, 96, 128))
    reason = "frames have 128 x 96 pixels, at most 10,000 are taken: shrink them"
    with pytest.raises(Unplayable, match=reason), opened(str(path), most_pixels=10_000):
        pass


def test_a_file_that_changed_or_is_gone_is_no_fault_of_its_row(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving(1, 2))
    with pytest.raises(StorageError, match="it changed since it was listed"), opened(str(path), "another etag"):
        pass
    path.unlink()
    with pytest.raises(StorageError, match="it is not there any more"), opened(str(path)):
        pass


def test_an_object_is_read_by_ranges(tmp_path, s3_root):
    path, uri = write_video(tmp_path / "v.mp4", moving(1, 40)), f"{s3_root}/v.mp4"
    whole = times(path)
    store_of(uri).upload(path, uri)
    assert times(uri, 0.8) == [at for at in whole if at >= 0.8]
    with pytest.raises(StorageError, match="it changed since it was listed"), opened(uri, "another etag"):
        pass


def quarters():
    """Red, green, blue and white, a quarter each."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :48, 0], pixels[:32, 48:, 1], pixels[32:, :48, 2], pixels[32:, 48:] = 255, 255, 255, 255
    return pixels


def corners(image):
    tall, wide = image.shape[0], image.shape[1]
    return [image[y, x] for y in (tall // 4, 3 * tall // 4) for x in (wide // 4, 3 * wide // 4)]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_images_are_upright(tmp_path, degrees):
    turned = np.rot90(quarters(), -degrees // 90)
    path = write_video(tmp_path / "v.mp4", [turned] * 3, rotation=degrees)
    with opened(str(path)) as video:
        picture = next(video.between(0.0))
        image, preview = Scaler().rgb(picture, 32, 48, "stretch"), Scaler().preview(picture, 32)
    assert image.shape == preview.shape == (32, 48, 3)
    for seen in (image, preview):
        assert np.abs(np.array(corners(seen), float) - np.array(corners(quarters()), float)).max() < 40


def test_crop_keeps_the_middle_and_the_proportions(tmp_path):
    path = write_video(tmp_path / "v.mp4", [quarters()] * 2)
    with opened(str(path)) as video:
        image = Scaler().rgb(next(video.between(0.0)), 32, 32, "crop")
    wanted = quarters()[::2, 16:80:2].astype(float)
    assert np.abs(image - wanted).mean() < 12


def test_jpeg_is_read_back_by_another_decoder():
    pixels = moving(3, 1, 72, 90)[0]
    with av.open(io.BytesIO(jpeg(pixels, 2))) as file:
        found = next(file.decode(video=0)).to_ndarray(format="rgb24")
    assert found.shape == pixels.shape
    assert np.abs(found.astype(float) - pixels).mean() < 8


def test_an_unknown_codec_is_told(tmp_path):
    path = write_video(tmp_path / "v.mkv", moving(1, 5))
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_NOBODYS/OWN/X"))
    with pytest.raises(Unplayable, match="its codec is not known to this FFmpeg; convert it"):
        times(path)


def test_a_playlist_in_disguise_is_not_followed(tmp_path):
    write_video(tmp_path / "secret.ts", moving(1, 10), codec="mpeg2video")
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.4,\n{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "v.mp4").write_text(playlist)
    with pytest.raises(Unplayable, match="it cannot be read as a video"):
        times(tmp_path / "v.mp4")
