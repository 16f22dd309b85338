"""Images to embeddings: Penstock beside Ray Data's documented recipe and a plain loop, decoding included.

ResNet-50 with random weights in float32, on JPEG files of about 500 x 375 pixels (the usual size of ImageNet's):
random crops of the photographs that scikit-image carries, resized and written with quality 90. All ways give the
same vectors (checked), and write them to Parquet, but for the loop, which keeps them.

* ``penstock`` is `images` -> `vision` -> `parquet` in one process; ``penstock on Ray`` the same on one actor.
* ``ray recipe`` is read_images -> map(preprocess) -> map_batches(actor) -> write_parquet, after
  https://docs.ray.io/en/latest/data/examples/pytorch_resnet_batch_prediction.html, once as it stands there and once
  with torch's threads in the actor set to the machine's cores; the better one counts.
* ``daft`` is from_glob_path -> download -> decode_image -> the same preprocessing as a row function -> the same module
  as a batch function of one worker -> write_parquet, after https://docs.daft.ai/en/stable/use-case/, on its own engine.
  It is measured where DAFT_PATH names a folder with it: `pip install --target daft --no-deps daft`.
* ``loop`` decodes and resizes with Pillow and runs the module on batches, one after the other.

The network is torchvision's resnet50 written out, since torchvision's wheel on PyPI wants torch with CUDA, and runs on
the CPU in all ways. Each way is a process of its own, timed without imports; the pipelines, the recipe and daft load
the model within their time, the loop does not. What loading and the first batch cost stands apart (``first batch``: the
time from the file of weights to the first 16 vectors), and the rates are told without it too. Ratios are taken
turn by turn.

The share of time lost to decoding is that of decoding and resizing alone, by as many threads as there are cores, in the
time of the whole run of Penstock in one process: the processor's time that is not the network's for that reason.
`make bench NAME=images`, or `python images.py --images 32 --turns 1`
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import measuring
import numpy as np

BATCH, CORES = 16, len(os.sched_getaffinity(0))
NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "retina.jpg")
DAFT, GOAL = os.environ.get("DAFT_PATH", ""), 1.5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_data(folder: Path, count: int) -> None:
    """Photos, and the weights by torchvision's names."""
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    photos = [Image.open(Path(find_spec("skimage").origin).parent / "data" / name).convert("RGB") for name in NAMES]
    random = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for at in range(count):
        photo = photos[at % len(photos)]
        wide, high = (int(side * random.uniform(0.6, 0.9)) for side in photo.size)
        left, top = (int(random.integers(0, one - other)) for one, other in zip(photo.size, (wide, high), strict=True))
        crop = photo.crop((left, top, left + wide, top + high)).resize((500, 375))
        crop.save(folder / "photos" / f"{at:05d}.jpg", quality=90)
    torch.manual_seed(0)
    save_file(resnet50().state_dict(), folder / "resnet50.safetensors")


def resnet50() -> Any:
    """torchvision's resnet50: the same modules under the same names."""
    import torch
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, given: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(given, width, 1, bias=False), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
            self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
            self.relu = nn.ReLU(inplace=True)
            self.downsample = None
            if stride > 1 or given != 4 * width:
                convolution = nn.Conv2d(given, 4 * width, 1, stride, bias=False)
                self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(4 * width))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.relu(self.bn1(self.conv1(x)))
            y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
            return self.relu(y + (x if self.downsample is None else self.downsample(x)))

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
            self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
            given = 64
            for at, (count, stride) in enumerate(((3, 1), (4, 2), (6, 2), (3, 2)), 1):
                width = 32 * 2**at
                blocks = [
                    Bottleneck(given if n == 0 else 4 * width, width, stride if n == 0 else 1) for n in range(count)
                ]
                self.add_module(f"layer{at}", nn.Sequential(*blocks))
                given = 4 * width
            self.avgpool = nn.AdaptiveAvgPool2d(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            return self.avgpool(self.layer4(self.layer3(self.layer2(self.layer1(x))))).flatten(1)

    return ResNet().eval()


def trained(folder: Path) -> Any:
    """The module with its weights."""
    from safetensors.torch import load_file

    network = resnet50()
    network.load_state_dict(load_file(folder / "resnet50.safetensors"))
    return network


def prepared(image: Any) -> np.ndarray:
    """Resize(256), CenterCrop(224), ToTensor, Normalize, of one image."""
    width, height = image.size
    short = min(width, height)
    image = image.resize((256 * width // short, 256 * height // short), 2)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    return np.ascontiguousarray(((pixels - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1))


# --- the ways: each gives the seconds of its work and the vectors by name --------------------------------


def penstock(folder: Path, runner: Any) -> tuple[float, dict[str, Any]]:
    from penstock.core.batch import to_numpy
    from penstock.core.nouns import Pipeline, Place, Step
    from penstock.core.reading import read_table
    from penstock.sinks.parquet import Parquet
    from penstock.sources.images import Images
    from penstock.stages.drop import Drop
    from penstock.stages.vision import Vision

    size = sum(path.stat().st_size for path in (folder / "photos").iterdir())
    stage = Vision(str(folder / "resnet50.safetensors"), batch=BATCH, threads=CORES, decoders=CORES, device="cpu")
    out = Parquet(str(folder / "out"))
    source = Images(str(folder / "photos"), unit_bytes=max(size // 4, 1))
    pipeline = Pipeline("images", source, out, (Step(stage, Place("actor")), Step(Drop(("image",)))))
    with stage.open(), runner.session():  # imports, and Ray, are up before the clock starts, as in the other ways
        started = time.perf_counter()
        runner.run(pipeline)
        seconds = time.perf_counter() - started
    table = read_table(out.uri)
    return seconds, dict(zip(table["id"].to_pylist(), to_numpy(table["embedding"]), strict=True))


def inline(folder: Path) -> tuple[float, dict[str, Any]]:
    from penstock.runners.inline import Inline

    return penstock(folder, Inline())


def on_ray(folder: Path) -> tuple[float, dict[str, Any]]:
    from penstock.runners.ray import Ray

    return penstock(folder, Ray())


def recipe(folder: Path, threads: int = 0) -> tuple[float, dict[str, Any]]:
    import pyarrow.parquet as pq
    import ray
    import torch
    from PIL import Image

    ray.init(num_cpus=CORES, logging_level="error", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def preprocess(row: dict[str, Any]) -> dict[str, Any]:
        return {"path": row["path"], "image": prepared(Image.fromarray(row["image"]))}

    class Model:
        def __init__(self) -> None:
            if threads:
                torch.set_num_threads(threads)
            self.network = trained(folder)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            with torch.inference_mode():
                return {"path": batch["path"], "embedding": self.network(torch.from_numpy(batch["image"])).numpy()}

    started = time.perf_counter()
    images = ray.data.read_images(str(folder / "photos"), mode="RGB", include_paths=True)
    images.map(preprocess).map_batches(Model, concurrency=1, batch_size=BATCH).write_parquet(str(folder / "out"))
    seconds = time.perf_counter() - started
    rows = pq.read_table(folder / "out").to_pylist()
    return seconds, {Path(row["path"]).name: np.array(row["embedding"]) for row in rows}


def recipe_threads(folder: Path) -> tuple[float, dict[str, Any]]:
    return recipe(folder, CORES)


def by_daft(folder: Path) -> tuple[float, dict[str, Any]]:
    import daft
    import pyarrow.parquet as pq
    import torch
    from daft import DataType, col
    from PIL import Image

    @daft.func(return_dtype=DataType.tensor(DataType.float32(), (3, 224, 224)))
    def preprocess(image: np.ndarray) -> np.ndarray:
        return prepared(Image.fromarray(np.asarray(image)))

    @daft.cls(max_concurrency=1)
    class Model:
        def __init__(self) -> None:
            torch.set_num_threads(CORES)
            self.network = trained(folder)

        @daft.method.batch(return_dtype=DataType.tensor(DataType.float32(), (2048,)), batch_size=BATCH)
        def embed(self, images: Any) -> Any:
            with torch.inference_mode():
                return list(self.network(torch.from_numpy(np.stack(images.to_pylist()))).numpy())

    started = time.perf_counter()
    images = daft.from_glob_path(str(folder / "photos" / "*.jpg"))
    images = images.with_column("image", col("path").download().decode_image(mode="RGB"))
    images = images.with_column("image", preprocess(col("image"))).with_column("embedding", Model().embed(col("image")))
    images.select("path", "embedding").write_parquet(str(folder / "out"))
    seconds = time.perf_counter() - started
    table = pq.read_table(folder / "out")
    vectors = [np.array(each.as_py()) for each in table["embedding"]]
    return seconds, {Path(name).name: vector for name, vector in zip(table["path"].to_pylist(), vectors, strict=True)}


def batches(folder: Path) -> Iterator[list[Path]]:
    paths = sorted((folder / "photos").iterdir())
    return (paths[at : at + BATCH] for at in range(0, len(paths), BATCH))


def loop(folder: Path) -> tuple[float, dict[str, Any]]:
    import torch
    from PIL import Image

    torch.set_num_threads(CORES)
    network, found = trained(folder), {}
    started = time.perf_counter()
    with torch.inference_mode():
        for paths in batches(folder):
            pixels = np.stack([prepared(Image.open(path).convert("RGB")) for path in paths])
            found.update(zip((path.name for path in paths), network(torch.from_numpy(pixels)).numpy(), strict=True))
    return time.perf_counter() - started, found


def network_alone(folder: Path) -> tuple[float, dict[str, Any]]:
    """Penstock's network on pixels that are ready."""
    import torch
    from PIL import Image

    from penstock.models import vision
    from penstock.models.pixels import IMAGENET, fitted

    torch.set_num_threads(CORES)
    ready = [(p, np.stack([fitted(np.asarray(Image.open(x)), IMAGENET) for x in p])) for p in batches(folder)]
    found = {}
    with vision.opened(str(folder / "resnet50.safetensors"), "pooled", "cpu") as live:
        started = time.perf_counter()
        for paths, pixels in ready:
            found.update(zip((path.name for path in paths), live(pixels).numpy(), strict=True))
        return time.perf_counter() - started, found


def first_batch(folder: Path) -> tuple[float, dict[str, Any]]:
    """From the weights in their file to the first vectors, by Penstock's network."""
    import torch

    from penstock.models import vision

    torch.set_num_threads(CORES)
    pixels = np.zeros((BATCH, 224, 224, 3), np.uint8)
    started = time.perf_counter()
    with vision.opened(str(folder / "resnet50.safetensors"), "pooled", "cpu") as live:
        live(pixels).numpy()
        return time.perf_counter() - started, {}


def first_batch_of_the_module(folder: Path) -> tuple[float, dict[str, Any]]:
    """The same by the module that the recipe and daft run."""
    import torch

    torch.set_num_threads(CORES)
    pixels = torch.zeros((BATCH, 3, 224, 224))
    started = time.perf_counter()
    with torch.inference_mode():
        trained(folder)(pixels).numpy()
    return time.perf_counter() - started, {}


def decode_alone(folder: Path) -> tuple[float, dict[str, Any]]:
    """Decoding and resizing by as many threads as there are cores, and nothing else."""
    from concurrent.futures import ThreadPoolExecutor

    from penstock.models.pixels import IMAGENET, decoded

    data = [path.read_bytes() for path in sorted((folder / "photos").iterdir())]
    with ThreadPoolExecutor(CORES) as pool:
        started = time.perf_counter()
        list(pool.map(lambda each: decoded(each, IMAGENET), data))
        return time.perf_counter() - started, {}


WAYS: dict[str, Callable[[Path], tuple[float, dict[str, Any]]]] = {
    "penstock": inline,
    "penstock on Ray": on_ray,
    "ray recipe": recipe,
    "ray recipe, torch's threads set": recipe_threads,
    "daft": by_daft,
    "loop": loop,
    "network alone": network_alone,
    "decode alone": decode_alone,
    "first batch": first_batch,
    "first batch, module": first_batch_of_the_module,
}
LOADS = {"penstock": "first batch", "penstock on Ray": "first batch", "loop": ""}
"""What is taken off a way's seconds for its load and first batch; the module's where nothing stands here."""
PARTS = ("network alone", "decode alone", "first batch", "first batch, module")
ROUGH = {"daft": 1e-2}
"""Daft's JPEG decoder is another one, whose pixels differ by one or two levels."""


def apart(name: str, folder: Path) -> float:
    """Seconds of a way in a process of its own; its vectors must be those of the first way."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    path = os.pathsep.join(filter(None, (DAFT if name == "daft" else "", os.environ.get("PYTHONPATH"))))
    code = [sys.executable, __file__, "--way", name, str(folder)]
    done = subprocess.run(code, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    _agree(folder, name)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _agree(folder: Path, name: str) -> None:
    found, first = folder / "found.npy", folder / "first.npy"
    vectors = np.load(found)
    if not vectors.size:
        return
    if not first.exists():
        np.save(first, vectors)
    limit = ROUGH.get(name, 1e-3) * np.abs(vectors).max()
    np.testing.assert_allclose(vectors, np.load(first), rtol=0, atol=limit, err_msg=name)


def child(name: str, folder: Path) -> None:
    seconds, found = WAYS[name](folder)
    np.save(folder / "found.npy", np.stack([found[key] for key in sorted(found)]) if found else np.zeros(0))
    print(json.dumps(seconds))


def libjpeg() -> dict[str, str]:
    """What decodes."""
    import PIL
    from PIL import features

    return {"pillow": PIL.__version__, "libjpeg_turbo": features.version_feature("libjpeg_turbo") or "none"}


def measured(count: int, turns: int) -> dict[str, np.ndarray]:
    """Seconds of each way, turn by turn."""
    with tempfile.TemporaryDirectory() as at:
        folder = Path(at)
        make_data(folder, count)
        ways = {name: (lambda name=name: apart(name, folder)) for name in WAYS if name != "daft" or DAFT}
        return {name: np.array(values) for name, values in measuring.turns(ways, turns).items()}


def ratio(above: np.ndarray, below: np.ndarray) -> dict[str, float]:
    """Turn by turn."""
    return measuring.spread((above / below).tolist())


def rates_of(seconds: dict[str, np.ndarray], count: int, *, loaded: bool) -> dict[str, dict[str, float]]:
    """Images a second; of all of them with the load, or of those after the first batch without it."""
    found = {}
    for way in (each for each in seconds if each not in PARTS):
        load = LOADS.get(way, "first batch, module")
        off = seconds[load] if load and not loaded else 0 * seconds[way]
        rest = count - (BATCH if load and not loaded else 0)
        found[way] = ratio(np.full(len(off), float(rest)), seconds[way] - off)
    return found


def main(count: int, turns: int) -> None:
    seconds = measured(count, turns)
    recipes = np.minimum(seconds["ray recipe"], seconds["ray recipe, torch's threads set"])
    ours = {name: ratio(recipes, seconds[name]) for name in ("penstock", "penstock on Ray")}
    peers = {name: seconds[name] for name in ("daft", "loop", "network alone") if name in seconds}
    whole, decoding, network = (seconds[name] for name in ("penstock", "decode alone", "network alone"))
    measuring.write(
        "images",
        {
            "images": count,
            "batch": BATCH,
            **libjpeg(),
            "images_a_second": rates_of(seconds, count, loaded=True),
            "images_a_second_without_load_and_first_batch": rates_of(seconds, count, loaded=False),
            "seconds": {name: measuring.spread(seconds[name].tolist()) for name in PARTS},
            "over_the_better_recipe_of_each_turn": ours,
            "over_others": {
                f"{one} over {name}": ratio(others, seconds[one]) for one in ours for name, others in peers.items()
            },
            "share_of_time_lost_to_decode": ratio(decoding, whole),
            "share_of_time_of_the_network": ratio(network, whole),
            "goals": {
                f"{name} over the documented Ray Data recipe": {
                    "at_least": GOAL,
                    "found": round(each["median"], 3),
                    "reached": each["median"] >= GOAL,
                }
                for name, each in ours.items()
            },
            "daft": "measured" if DAFT else "not measured: DAFT_PATH names no folder with daft",
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--way", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    child(given.way[0], Path(given.way[1])) if given.way else main(given.images, given.turns)
