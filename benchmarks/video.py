"""Videos to shots and embeddings: Penstock beside cosmos-xenna and a plain loop, and beside bare decoding and model.

H.264 of 640 x 360 at 25 frames a second, shots of two to five seconds of a camera over photographs (the films of
examples/video, larger); eight frames of each shot go through EfficientNet-Lite0 in float32, on the CPU in all ways.
Those by colour find the same shots (checked by their number).

* ``penstock`` is `videos` -> `shots` -> `frames` -> `vision` -> `parquet`, in one process, whose decoder has as many
  threads as there are cores, and on Ray, in one worker that has a unit more in hand than there are cores.
* ``loop`` is what one would write: PyAV goes through a video for the changes of small grey frames, and a second time
  for the frames, then the same network. One process; the network has all cores.
* ``cosmos-xenna`` has the loop's three functions as three stages that stream; it starts a Ray of its own, whose start
  is among its seconds, and refuses to where others run. It is measured where XENNA_PATH names a folder with it:
  `pip install --target xenna --no-deps cosmos-xenna cattrs loguru pulp tabulate 'obstore<0.9' portpicker`.
* The speed of light is the time of bare decoding (``decode alone``: each video once, by as many processes as there are
  cores) and of the bare network (``network alone``, images that lie ready), added, in the same turn. Shots by colour
  decode a video twice (once for the changes, once for the frames), shots by stride once; so the ways by colour have
  two lights, with one pass and with the two that they take.

Memory: the whole line with `cut` goes over a film whose frames, decoded, are more than twenty times what its process
may have (RLIMIT_DATA), and its rows are looked at. `make bench NAME=video`, or `python video.py --films 3 --turns 1`
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import av
import measuring
import numpy as np

CORES, FRAMES, SIDE, STRIDE = len(os.sched_getaffinity(0)), 8, 224, 3.0
HEIGHT, WIDTH, DISTINCT = 360, 640, 3
CAP, LONG_SIZE, LONG_SECONDS = 448 << 20, (720, 1280), 2.0
GOAL = 0.85
MODEL = "efficientnet-lite0"
XENNA = os.environ.get("XENNA_PATH", "")
ONE = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MALLOC_ARENA_MAX"), "1")
EXAMPLE = Path(__file__).parents[1] / "examples" / "video" / "make.py"


# --- data ------------------------------------------------------------------------------------------------


def make_data(folder: Path, films: int) -> None:
    """The films, and a short and a long one for the memory."""
    make, photos = example()
    (folder / "films").mkdir()
    random = np.random.default_rng(0)
    for film in range(films):
        path = folder / "films" / f"{film:03d}.mp4"
        if film >= DISTINCT:  # drawing takes longer than what is measured
            path.write_bytes((folder / "films" / f"{film % DISTINCT:03d}.mp4").read_bytes())
            continue
        lengths = random.integers(8, 21, len(photos)) / 4
        draw(make, path, zip(random.permutation(photos), lengths, strict=True), random, (HEIGHT, WIDTH))
    short = folder / "short" / "v.mp4"
    short.parent.mkdir()
    draw(make, short, ((photo, LONG_SECONDS) for photo in photos[:3]), random, LONG_SIZE)
    repeat(short, folder / "long" / "v.mp4", 1 + 20 * CAP // decoded_bytes(short))


def draw(make: Any, path: Path, shots: Iterable[Any], random: np.random.Generator, size: Any) -> None:
    """A film of shots of photographs, each with its seconds."""
    make.HEIGHT, make.WIDTH = size
    found = tuple(make.Shot(photo, float(seconds), *places(random)) for photo, seconds in shots)
    make.write(path, found, *size, crf="23", preset="veryfast")


def example() -> tuple[Any, list[str]]:
    """The module that draws the films of examples/video, and its photographs."""
    spec = importlib.util.spec_from_file_location("make", EXAMPLE)
    make = importlib.util.module_from_spec(spec)
    sys.modules["make"] = make
    spec.loader.exec_module(make)
    return make, [path.stem for path in sorted(make.PHOTOS.iterdir())]


def decoded_bytes(path: Path) -> int:
    """Of all its frames, as decoders give them: 12 bits a pixel."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        return int(stream.frames * stream.height * stream.width * 3 // 2)


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


def penstock(folder: Path, runner: Any, by: str = "colour", threads: int = 1, units: int = 1) -> tuple[float, int]:
    from penstock.core.nouns import Pipeline, Place, Step
    from penstock.core.reading import read_table
    from penstock.report import story
    from penstock.sinks.parquet import Parquet
    from penstock.sources.videos import Videos
    from penstock.stages.drop import Drop
    from penstock.stages.frames import Frames
    from penstock.stages.shots import Shots
    from penstock.stages.vision import Vision

    model = Vision(MODEL, column="frames", threads=CORES, device="cpu")
    out = Parquet(str(folder / "out"))
    steps = (
        Step(Shots(by, stride_seconds=STRIDE, threads=threads), Place(concurrency=units)),
        Step(Frames(FRAMES, SIDE, SIDE, threads=threads), Place(concurrency=units)),
        Step(model, Place("actor")),
        Step(Drop(("frames",))),
    )
    line = Pipeline("video", Videos(str(folder / "films")), out, steps, read=Place(concurrency=units))
    with model.open(), runner.session():  # imports, and Ray, are up before the clock starts, as in the other ways
        seconds = measuring.seconds(lambda: runner.run(line))
    spent = {step.step: round(step.seconds, 2) for step in story.steps(story.runs(out.uri)[0])}
    (folder / "spent.json").write_text(json.dumps({**spent, "all": round(seconds, 2)}))
    return seconds, read_table(out.uri, ["id"]).num_rows


def inline(folder: Path, by: str = "colour") -> tuple[float, int]:
    from penstock.runners.inline import Inline

    return penstock(folder, Inline(), by, threads=CORES)


def on_ray(folder: Path, by: str = "colour") -> tuple[float, int]:
    from penstock.runners.ray import Ray

    return penstock(folder, Ray(), by, units=CORES + 1)


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


def decode_alone(folder: Path) -> tuple[float, int]:
    """Each film once; how many there are."""
    paths = [str(path) for path in sorted((folder / "films").iterdir())]
    with Pool(CORES) as pool:
        return measuring.seconds(lambda: pool.map(decoded, paths, chunksize=1)), len(paths)


def network_alone(folder: Path) -> tuple[float, int]:
    """The network on images that lie ready, eight for each shot that the loop would find; how many these are."""
    from penstock.models import vision

    shots = sum(len(split(str(path))) for path in sorted((folder / "films").iterdir()))
    with vision.opened(MODEL, "pooled", "cpu", CORES) as network:
        images = np.zeros((16, SIDE, SIDE, 3), np.uint8)
        network(images)
        count = shots * FRAMES // len(images)
        return measuring.seconds(lambda: [network(images).cpu() for _ in range(count)]), count * len(images)


def memory(folder: Path) -> tuple[float, int]:
    """Peak of resident memory in MB and how many clips came out of the long film, under the cap."""
    import resource

    from penstock.core.nouns import Pipeline, Step
    from penstock.core.reading import read_table
    from penstock.runners.inline import Inline
    from penstock.sinks.parquet import Parquet
    from penstock.sources.videos import Videos
    from penstock.stages.cut import Cut
    from penstock.stages.drop import Drop
    from penstock.stages.frames import Frames
    from penstock.stages.shots import Shots
    from penstock.stages.vision import Vision

    model = Vision(MODEL, column="frames", batch=4, decoders=1, threads=1, device="cpu")
    cut = Cut(str(folder / "mp4"), options=(("preset", "ultrafast"),))
    stages = (Shots(), Frames(FRAMES, SIDE, SIDE), model, Drop(("frames",)), cut)
    source = Videos(str(folder / "long"), span_bytes=3 * (folder / "short" / "v.mp4").stat().st_size)
    out = Parquet(str(folder / "out"))
    resource.setrlimit(resource.RLIMIT_DATA, (CAP, CAP))
    must_not_hold(CAP)
    Inline().run(Pipeline("long", source, out, tuple(map(Step, stages))))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    whole(read_table(out.uri), folder / "long" / "v.mp4")
    return peak, read_table(out.uri, ["id"]).num_rows


def must_not_hold(size: int) -> None:
    try:
        np.empty(size, np.uint8)
    except MemoryError:
        return
    raise RuntimeError("the cap does not hold")


def whole(rows: Any, film: Path) -> None:
    """Every frame of *film* is in one clip, which has its vector and its file."""
    from penstock.core.batch import to_numpy

    starts, stops = (rows[name].to_numpy() for name in ("start_seconds", "stop_seconds"))
    order = starts.argsort()
    np.testing.assert_allclose(starts[order][1:], stops[order][:-1], atol=1e-9)
    with av.open(str(film)) as file:
        assert sum(rows["clip_frames"].to_pylist()) == file.streams.video[0].frames
    assert (np.linalg.norm(to_numpy(rows["embedding"]), axis=1) > 0).all()
    files = zip(rows["clip_uri"].to_pylist(), rows["clip_bytes"].to_pylist(), strict=True)
    assert all(Path(uri).stat().st_size == size for uri, size in files)


WAYS: dict[str, Callable[[Path], tuple[float, int]]] = {
    "penstock": inline,
    "penstock on Ray": on_ray,
    "penstock, by stride": lambda folder: inline(folder, "stride"),
    "penstock on Ray, by stride": lambda folder: on_ray(folder, "stride"),
    "loop": loop,
    "cosmos-xenna": xenna,
    "decode alone": decode_alone,
    "network alone": network_alone,
}
BARE = ("decode alone", "network alone")


def alone(way: str, folder: Path) -> tuple[float, int, dict[str, float]]:
    """One way in a process of its own: its seconds, its count, and where Penstock spent its time."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        here = Path(place)
        for name in ("films", "short", "long"):
            (here / name).symlink_to(folder / name)
        path = os.pathsep.join(filter(None, (XENNA if way == "cosmos-xenna" else "", os.environ.get("PYTHONPATH"))))
        lean = {**ONE, "ARROW_DEFAULT_MEMORY_POOL": "system"} if way == "memory" else {}
        words = [sys.executable, __file__, "--way", way, str(here)]
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, env={**os.environ, **lean, "PYTHONPATH": path}
        )
        if done.returncode:
            raise RuntimeError(f"{way}: {done.stderr[-3000:]}")
        seconds, count = json.loads(done.stdout.strip().splitlines()[-1])
        spent = here / "spent.json"
        return seconds, count, json.loads(spent.read_text()) if spent.exists() else {}


def main(films: int, turns: int) -> None:
    counts: dict[str, int] = {}
    spent: dict[str, dict[str, float]] = {}

    def measured(way: str, folder: Path) -> float:
        seconds, counts[way], told = alone(way, folder)
        spent.update({way: told} if told else {})
        return seconds

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder, films)
        long = decoded_bytes(folder / "long" / "v.mp4")
        timed = [way for way in WAYS if way != "cosmos-xenna" or XENNA]
        found = measuring.turns({way: lambda way=way: measured(way, folder) for way in timed}, turns)
        peak, clips, _ = alone("memory", folder)
    judged = [way for way in timed if way not in BARE]
    if len({counts[way] for way in judged if "stride" not in way}) > 1:
        raise RuntimeError(f"the ways found other numbers of shots: {counts}")
    shares = {way: shares_of_light(way, found, counts) for way in judged if way.startswith("penstock")}
    rates = {way: measuring.spread([counts[way] / value for value in found[way]]) for way in judged}
    measuring.write(
        "video",
        {
            "films": films,
            "counts": counts,
            "clips_per_second": rates,
            "times_as_fast": beside(found, judged),
            "of_the_speed_of_light": shares,
            "goals": {way: goal(way, share) for way, share in shares.items()},
            "penstocks_seconds_by_step_in_the_last_turn": spent,
            "bare_seconds": {way: measuring.spread(found[way]) for way in BARE},
            "memory": {
                "cap_megabytes": round(CAP / 1e6),
                "long_film_decoded_megabytes": round(long / 1e6),
                "decoded_over_cap": round(long / CAP, 1),
                "peak_resident_megabytes": round(peak),
                "clips": clips,
                "goal": "at least 20 times, every frame in one clip with vector and file",
                "reached": long >= 20 * CAP,  # a row too few would have ended the run
            },
            "cosmos_xenna": "measured" if XENNA else "not measured: XENNA_PATH names no folder with cosmos-xenna",
        },
    )


def shares_of_light(way: str, found: dict[str, list[float]], counts: dict[str, int]) -> dict[str, dict[str, float]]:
    """Bare decoding and network of as many images, over the way's seconds, turn by turn."""
    images = counts[way] * FRAMES / counts["network alone"]

    def share(passes: int) -> dict[str, float]:
        each = zip(*(found[name] for name in (*BARE, way)), strict=True)
        return measuring.spread([(passes * decoding + images * network) / took for decoding, network, took in each])

    one = {"one_decode": share(1)}
    return one if "stride" in way else {**one, "two_decodes": share(2)}


def goal(way: str, share: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Against light with one decode, which is the stricter one."""
    value = share["one_decode"]["median"]
    told = {"at_least": GOAL, "found": round(value, 3), "reached": value >= GOAL}
    if "two_decodes" not in share:
        return told
    return {**told, "reached_beside_the_two_decodes_it_takes": share["two_decodes"]["median"] >= GOAL}


def beside(found: dict[str, list[float]], judged: list[str]) -> dict[str, dict[str, float]]:
    """Penstock's ways by colour over the peers, turn by turn."""
    ours = [way for way in judged if way.startswith("penstock") and "stride" not in way]
    peers = [way for way in judged if not way.startswith("penstock")]
    return {
        f"{one} over {other}": measuring.spread([b / a for a, b in zip(found[one], found[other], strict=True)])
        for one in ours
        for other in peers
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--films", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--way", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps({**WAYS, "memory": memory}[given.way[0]](Path(given.way[1]))))
    else:
        main(given.films, given.turns)
