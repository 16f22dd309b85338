"""A film whose frames, decoded, are twenty times what its process may have goes through the whole line."""

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from penstock.core.batch import to_numpy
from penstock.core.reading import read_table
from penstock.testing.videos import moving, write_video

CAP = 416 << 20
"""Python with torch, PyAV, Arrow and the network takes 260 MB of it."""
HEIGHT, WIDTH, LENGTHS = 1080, 1920, (50, 38, 36)
TIMES = 1 + 20 * CAP // (sum(LENGTHS) * HEIGHT * WIDTH * 3 // 2)

LINE = """
import resource, sys, threading
from pathlib import Path
import numpy as np
from penstock.core.nouns import Pipeline, Step
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.sources.videos import Videos
from penstock.stages.cut import Cut
from penstock.stages.drop import Drop
from penstock.stages.frames import Frames
from penstock.stages.shots import Shots
from penstock.stages.vision import Vision
cap, film, out, span = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
model = Vision("efficientnet-lite0", column="frames", batch=4, decoders=1, threads=1, device="cpu")
cut = Cut(str(out / "mp4"), options=(("preset", "ultrafast"),))
stages = (Shots(minimum_seconds=0.2), Frames(4), model, Drop(("frames",)), cut)
if cap:
    threading.stack_size(1 << 20)  # else the cap counts 8 MiB for each that waits for a disk, of which it uses little
    resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
    try:
        np.empty(cap, np.uint8)
        raise SystemExit("the cap does not hold")
    except MemoryError:
        pass
line = Pipeline("film", Videos(film, span_bytes=span), Parquet(str(out / "clips")), tuple(map(Step, stages)))
print(Inline().run(line).bad_rows, "bad rows")
"""


def repeated(path, target, times):
    """The packets of *path*, *times* one after the other."""
    with av.open(str(target), "w") as out:
        stream = None
        for turn in range(times):
            with av.open(str(path)) as file:
                source = file.streams.video[0]
                stream = stream or out.add_stream_from_template(source)
                for packet in file.demux(source):
                    if packet.dts is not None:
                        packet.pts, packet.dts = (at + turn * source.duration for at in (packet.pts, packet.dts))
                        packet.stream = stream
                        out.mux(packet)
    return target


def ran(cap, film, out, span):
    command = [sys.executable, "-c", LINE, *map(str, (cap, film, out, span))]
    one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MALLOC_ARENA_MAX"), "1")
    env = {**os.environ, **one, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, env=env, check=False)
    assert done.stdout.strip() == "0 bad rows", done.stdout + done.stderr
    return read_table(str(out / "clips"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Those of three shots, and of the same shots again and again, in spans of about nine shots."""
    folder = tmp_path_factory.mktemp("film")
    shots = [frame for seed, count in enumerate(LENGTHS, 1) for frame in moving(seed, count, HEIGHT, WIDTH)]
    short = write_video(folder / "short.mp4", shots, options={"preset": "ultrafast", "crf": "40", "sc_threshold": "40"})
    del shots
    long, span = repeated(short, folder / "long.mp4", TIMES), 3 * short.stat().st_size
    return ran(0, short, folder / "short", span), ran(CAP, long, folder / "long", span)


@pytest.mark.timeout(2000)
def test_a_film_twenty_times_the_cap_becomes_clips(clips):
    """RLIMIT_DATA counts what a process has of its own; code that is mapped does not belong to it."""
    assert TIMES * sum(LENGTHS) * HEIGHT * WIDTH * 3 // 2 > 20 * CAP
    short, long = clips
    starts, stops = (long[name].to_numpy() for name in ("start_seconds", "stop_seconds"))
    order = starts.argsort()
    np.testing.assert_allclose(starts[order][1:], stops[order][:-1], atol=1e-9, err_msg="a gap, or a frame twice")
    assert sum(long["clip_frames"].to_pylist()) == TIMES * sum(LENGTHS)
    assert all(Path(uri).stat().st_size == size for uri, size in zip(*files(long), strict=True))
    assert short["clip_frames"].to_pylist() == list(LENGTHS)
    assert set(long["clip_copied"].to_pylist()) == {True, False}, "clips at the borders of spans are encoded"


def files(table):
    return table["clip_uri"].to_pylist(), table["clip_bytes"].to_pylist()


@pytest.mark.timeout(2000)
def test_whole_shots_have_the_vectors_that_they_have_without_a_cap(clips):
    short, long = clips
    wanted = dict(placed(short))
    whole = [(vector, wanted[key]) for key, vector in placed(long) if key in wanted]
    assert len(whole) >= 2 * TIMES, "others were cut by the borders of spans"
    for found, vector in whole:
        assert np.linalg.norm(found - vector) < 0.02 * np.linalg.norm(vector)


def placed(table):
    """Of each clip its first frame within the three shots with its number of frames, and its vector."""
    starts, counts = (table[name].to_pylist() for name in ("start_seconds", "clip_frames"))
    keys = [(round(25 * start) % sum(LENGTHS), count) for start, count in zip(starts, counts, strict=True)]
    return zip(keys, to_numpy(table["embedding"]), strict=True)
