"""Videos to shots and embeddings: Penstock beside cosmos-xenna and a plain loop, and beside bare decoding and model.

H.264 of 640 x 360 at 25 frames a second, shots of two to five seconds of a camera over photographs (the films of
examples/video, larger); eight frames of each shot go through EfficientNet-Lite0 in float32. All ways find the same
shots (checked by their number).

* ``penstock`` is `videos` -> `shots` -> `frames` -> `vision` -> `parquet`, in one process and on Ray.
* ``loop`` is what one would write: PyAV goes through a video for the changes of small grey frames, and a second time
  for the frames, then the same network. One process; the network has all cores.
* ``cosmos-xenna`` has the loop's three functions as three stages that stream; it starts a Ray of its own, whose start
  is among its seconds. It is measured where XENNA_PATH names a folder with it:
  `pip install --target xenna --no-deps cosmos-xenna cattrs loguru pulp tabulate 'obstore<0.9' portpicker`.
* ``light`` is the speed of light: each video decoded once, by as many processes as there are cores, and the network on
  the same number of images that lie ready, nothing else; the two times are added. Shots by colour decode a video
  twice (once for the changes, once for the frames), shots by stride once.

Memory is the peak of a process that reads one video, and one twenty times as long whose frames, decoded, would not fit
into the memory that it has grown by. `make bench NAME=video`
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import av
import measuring
import numpy as np

FILMS, TURNS = int(os.environ.get("BENCH_FILMS", "8")), int(os.environ.get("BENCH_TURNS", "3"))
CORES, FRAMES, SIDE, STRIDE = len(os.sched_getaffinity(0)), 8, 224, 3.0
HEIGHT, WIDTH, DISTINCT = 360, 640, 3
MODEL = "efficientnet-lite0"
XENNA = os.environ.get("XENNA_PATH", "")
EXAMPLE = Path(__file__).parents[1] / "examples" / "video" / "make.py"


# --- data ------------------------------------------------------------------------------------------------


def make_data(folder: Path) -> None:
    """The films, and a short and a long one for the memory."""
    spec = importlib.util.spec_from_file_location("make", EXAMPLE)
    make = importlib.util.module_from_spec(spec)
    sys.modules["make"] = make
    spec.loader.exec_module(make)
    make.HEIGHT, make.WIDTH = HEIGHT, WIDTH
    (folder / "films").mkdir()
    random = np.random.default_rng(0)
    photos = [path.stem for path in sorted(make.PHOTOS.iterdir())]
    for film in range(FILMS):
        path = folder / "films" / f"{film:03d}.mp4"
        if film >= DISTINCT:  # drawing takes longer than what is measured
            path.write_bytes((folder / "films" / f"{film % DISTINCT:03d}.mp4").read_bytes())
            continue
        lengths = random.integers(8, 21, len(photos)) / 4
        order = zip(random.permutation(photos), lengths, strict=True)
        shots = tuple(make.Shot(photo, float(seconds), *places(random)) for photo, seconds in order)
        make.write(path, shots, HEIGHT, WIDTH, crf="23", preset="veryfast")
    repeat(folder / "films" / "000.mp4", folder / "short" / "v.mp4", 1)
    repeat(folder / "films" / "000.mp4", folder / "long" / "v.mp4", 20)


def places(random: np.random.Generator) -> list[tuple[float, float, float]]:
    return [(*random.uniform(0, 0.3, 2), random.uniform(0.4, 0.6)) for _ in range(2)]


def repeat(path: Path, target: Path, times: int) -> None:
    """The packets of *path*, *times* one after the other."""
    target.parent.mkdir()
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


# --- the ways: each gives the seconds of its work and how many shots it found ----------------------------


def penstock(folder: Path, runner: Any, by: str = "colour") -> tuple[float, int]:
    from penstock.core.nouns import Pipeline, Place, Step
    from penstock.core.reading import read_table
    from penstock.sinks.parquet import Parquet
    from penstock.sources.videos import Videos
    from penstock.stages.drop import Drop
    from penstock.stages.frames import Frames
    from penstock.stages.shots import Shots
    from penstock.stages.vision import Vision

    model, out = Vision(MODEL, column="frames", threads=CORES), Parquet(str(folder / "out"))
    steps = (
        Step(Shots(by, stride_seconds=STRIDE), Place("task")),
        Step(Frames(FRAMES, SIDE, SIDE)),
        Step(model, Place("actor")),
        Step(Drop(("frames",))),
    )
    with model.open(), runner.session():  # imports, and Ray, are up before the clock starts, as in the other ways
        seconds = measuring.seconds(lambda: runner.run(Pipeline("video", Videos(str(folder / "films")), out, steps)))
    return seconds, read_table(out.uri, ["id"]).num_rows


def inline(folder: Path) -> tuple[float, int]:
    from penstock.runners.inline import Inline

    return penstock(folder, Inline())


def on_ray(folder: Path) -> tuple[float, int]:
    from penstock.runners.ray import Ray

    return penstock(folder, Ray())


def on_ray_by_stride(folder: Path) -> tuple[float, int]:
    from penstock.runners.ray import Ray

    return penstock(folder, Ray(), "stride")


def split(path: str) -> list[tuple[float, float]]:
    """Shots: where the small grey frame is another one."""
    times, before, last = [0.0], None, 0.0
    with av.open(path) as file:
        for frame in file.decode(video=0):
            grey = frame.reformat(64, 36, "gray").to_ndarray().astype(np.int16)
            last = frame.time
            if before is not None and np.abs(grey - before).mean() > 25 and last - times[-1] >= 1:
                times.append(last)
            before = grey
    return list(zip(times, [*times[1:], last + 0.04], strict=True))


def extract(path: str, shots: list[tuple[float, float]]) -> list[np.ndarray]:
    """Eight frames of each shot."""
    found: list[list[np.ndarray]] = [[] for _ in shots]
    wanted = [(a + (n + 0.5) * (b - a) / FRAMES, shot) for shot, (a, b) in enumerate(shots) for n in range(FRAMES)]
    with av.open(path) as file:
        for frame in file.decode(video=0):
            while wanted and frame.time + 0.04 > wanted[0][0]:
                image = frame.reformat(SIDE * WIDTH // HEIGHT, SIDE, "rgb24").to_ndarray()
                left = (image.shape[1] - SIDE) // 2
                found[wanted.pop(0)[1]].append(image[:, left : left + SIDE])
    return [np.stack(images) for images in found]


def loop(folder: Path) -> tuple[float, int]:
    from penstock.models import vision

    recipe = vision.recipe_of(MODEL)
    with vision.opened(MODEL, "pooled", "cpu", CORES) as network:
        started, count = time.perf_counter(), 0
        for path in sorted((folder / "films").iterdir()):
            for images in extract(str(path), split(str(path))):
                embed(network, recipe, images)
                count += 1
        return time.perf_counter() - started, count


def embed(network: Any, recipe: Any, images: np.ndarray) -> np.ndarray:
    from penstock.models.pixels import fitted

    return network(np.stack([fitted(image, recipe) for image in images])).cpu().numpy().mean(0)


def xenna(folder: Path) -> tuple[float, int]:
    from cosmos_xenna.pipelines import v1 as pipelines

    cpus = pipelines.Resources(cpus=1.0 if CORES > 4 else 0.3)  # it keeps a core for itself

    class Split(pipelines.Stage):
        required_resources = cpus

        def process_data(self, paths: list) -> list:
            return [(path, split(path)) for path in paths]

    class Extract(pipelines.Stage):
        required_resources = cpus

        def process_data(self, found: list) -> list:
            return [images for path, shots in found for images in extract(path, shots)]

    class Embed(pipelines.Stage):
        required_resources = cpus

        def setup(self, worker: object) -> None:
            from penstock.models import vision

            self.recipe = vision.recipe_of(MODEL)
            self.network = vision.opened(MODEL, "pooled", "cpu", CORES).__enter__()

        def process_data(self, clips: list) -> list:
            return [embed(self.network, self.recipe, images) for images in clips]

    paths = [str(path) for path in sorted((folder / "films").iterdir())]
    config = pipelines.PipelineConfig(execution_mode=pipelines.ExecutionMode.STREAMING, return_last_stage_outputs=True)
    started = time.perf_counter()
    found = pipelines.run_pipeline(pipelines.PipelineSpec(paths, [Split(), Extract(), Embed()], config))
    return time.perf_counter() - started, len(found)


def decoded(path: str) -> int:
    with av.open(path) as file:
        return sum(1 for _ in file.decode(video=0))


def light(folder: Path) -> tuple[float, int]:
    from penstock.models import vision

    paths = [str(path) for path in sorted((folder / "films").iterdir())]
    with Pool(CORES) as pool:
        decoding = measuring.seconds(lambda: pool.map(decoded, paths, chunksize=1))
    shots = sum(len(split(path)) for path in paths)
    with vision.opened(MODEL, "pooled", "cpu", CORES) as network:
        images = np.zeros((16, SIDE, SIDE, 3), np.uint8)
        network(images)
        model = measuring.seconds(lambda: [network(images).cpu() for _ in range(shots * FRAMES // len(images))])
    return decoding + model, shots


def memory(folder: Path, name: str) -> tuple[float, int]:
    """Peak of resident memory in MB, and how many frames went through, in spans of the short film's size."""
    import resource

    import pyarrow as pa

    from penstock.sources.videos import Videos
    from penstock.stages.frames import Frames
    from penstock.stages.shots import Shots

    source = Videos(str(folder / name), span_bytes=(folder / "short" / "v.mp4").stat().st_size)
    count = 0
    with Shots().open() as shots, Frames(FRAMES, SIDE, SIDE).open() as frames:
        for unit in source.units():
            batch: pa.Table = frames(shots(source.read(unit)))
            count += sum(batch["clip_frames"].to_pylist())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, count


WAYS: dict[str, Callable[[Path], tuple[float, int]]] = {
    "penstock": inline,
    "penstock on Ray": on_ray,
    "penstock on Ray, by stride": on_ray_by_stride,
    "loop": loop,
    "cosmos-xenna": xenna,
    "light": light,
    "memory, short": lambda folder: memory(folder, "short"),
    "memory, long": lambda folder: memory(folder, "long"),
}


def alone(way: str, folder: Path) -> tuple[float, int]:
    """One way in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        here = Path(place)
        for name in ("films", "short", "long"):
            (here / name).symlink_to(folder / name)
        path = os.pathsep.join(filter(None, (XENNA if way == "cosmos-xenna" else "", os.environ.get("PYTHONPATH"))))
        words = [sys.executable, __file__, way, str(here)]
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
        )
        if done.returncode:
            raise RuntimeError(f"{way}: {done.stderr[-3000:]}")
        seconds, count = json.loads(done.stdout.strip().splitlines()[-1])
        return seconds, count


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder)
        timed = [way for way in WAYS if not way.startswith("memory") and (way != "cosmos-xenna" or XENNA)]
        counts: dict[str, int] = {}

        def measured(way: str) -> float:
            seconds, counts[way] = alone(way, folder)
            return seconds

        found = measuring.turns({way: lambda way=way: measured(way) for way in timed}, TURNS)
        peaks = {way: alone(way, folder) for way in WAYS if way.startswith("memory")}
    if len({counts[way] for way in timed if "stride" not in way}) > 1:
        raise RuntimeError(f"the ways found other numbers of shots: {counts}")
    rates = {way: measuring.spread([counts[way] / value for value in found[way]]) for way in timed}
    ratios = {
        way: measuring.spread([a / b for a, b in zip(found["light"], found[way], strict=True)])
        for way in timed
        if way.startswith("penstock") and counts[way] == counts["light"]  # by stride there are more images
    }
    frames = peaks["memory, long"][1]
    measuring.write(
        "video",
        {
            "films": FILMS,
            "shots": counts,
            "clips_per_second": rates,
            "of_the_speed_of_light": ratios,
            "peak_megabytes": {way: round(peak) for way, (peak, _) in peaks.items()},
            "long_film_decoded_megabytes": round(frames * HEIGHT * WIDTH * 1.5 / 1e6),
            "cosmos_xenna": "measured" if XENNA else "not measured: XENNA_PATH names no folder with cosmos-xenna",
        },
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(WAYS[sys.argv[1]](Path(sys.argv[2]))))
    else:
        main()
