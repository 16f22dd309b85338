"""What each place of a stage costs a batch, over the plain call: `clean` on 200 rows and on 20,000 rows.

Whole pipelines on both runners. A run of few units and one of many are told apart, so that what a place costs to set up
and what it costs for each batch stand by themselves: the first is the time of a run of no more than one batch, the
second the slope. The plain call is `function` on the inline runner; on Ray it is `function` there, which runs in the
task that reads. Containers are those of `scripts/images core`, run by buildah, docker and podman; `process` is the same
pipe to a process without one.
`make bench NAME=places`; `--turns 1` for a try.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import measuring

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/real/containers"))
from engines import ready

from penstock.core.nouns import Pipeline, Place, Runner, Step
from penstock.runners.inline import Inline
from penstock.runners.ray import Ray
from penstock.serving.single import on_http
from penstock.sinks.parquet import Parquet
from penstock.stages.clean import Clean
from penstock.testing.parts import Numbers

ROOT = Path(__file__).resolve().parents[1]
FEW, MANY = 1, 101
ROWS = (200, 20_000)
STAGE = Clean(column="name")
IMAGE = "penstock-core:0.1.0"
ENGINES = ("buildah", "podman", "docker")
"""The last is that of Ray's workers."""


def seconds(runner: Runner, folder: Path, place: Place, units: int, rows: int) -> float:
    """Of one run of *units* units that each have *rows* rows, the sink included, which costs every place the same."""
    shutil.rmtree(folder, ignore_errors=True)
    numbers = Numbers(units + units // 6, rows)  # every seventh unit is empty
    pipeline = Pipeline("line", numbers, Parquet(str(folder)), (Step(STAGE, place),))
    return measuring.seconds(lambda: runner.run(pipeline))


@contextmanager
def engine(name: str) -> Iterator[None]:
    """Containers are started by *name* inside; Ray's workers have what was set when Ray was started."""
    before = os.environ["PENSTOCK_ENGINE"]
    os.environ["PENSTOCK_ENGINE"] = name
    yield
    os.environ["PENSTOCK_ENGINE"] = before


@contextmanager
def service() -> Iterator[str]:
    """The stage behind HTTP, in this process."""
    with on_http(Step(STAGE), "127.0.0.1", 0, 1 << 30) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def measured(ways: dict[str, tuple[Runner, Place, str]], folder: Path, turns: int) -> dict[str, dict[str, object]]:
    def way(name: str, units: int, rows: int) -> float:
        runner, place, by = ways[name]
        with engine(by):
            return seconds(runner, folder / "out", place, units, rows)

    told: dict[str, dict[str, object]] = {name: {} for name in ways}
    for rows in ROWS:
        plans = {f"{name}|{units}": (name, units) for name in ways for units in (FEW, MANY)}
        found = measuring.turns({key: partial(way, *plan, rows) for key, plan in plans.items()}, turns)
        for name in ways:
            few, many = found[f"{name}|{FEW}"], found[f"{name}|{MANY}"]
            slopes = [(b - a) / (MANY - FEW) * 1000 for a, b in zip(few, many, strict=True)]
            told[name][f"ms_a_batch_of_{rows}_rows"] = measuring.spread(slopes)
            told[name].setdefault("seconds_of_one_batch", measuring.spread(few))
    return told


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=4)
    turns = parser.parse_args().turns
    with ExitStack() as stack:
        for by in ENGINES:
            os.environ.update({} if by == "buildah" else stack.enter_context(ready(by)), PENSTOCK_ENGINE=by)
            subprocess.run(["scripts/images", "core"], cwd=ROOT, check=True)
        name, address = (stack.enter_context(each) for each in (tempfile.TemporaryDirectory(), service()))
        stack.enter_context(Ray(cpus=2).session())
        inline, ray = Inline(), Ray(cpus=2)
        pool = {"replicas": (1, 1), "cpus": 0.5}
        ways: dict[str, tuple[Runner, Place, str]] = {
            "inline, function": (inline, Place(), ""),
            "inline, process": (inline, Place("container"), "process"),
            **{f"inline, container by {by}": (inline, Place("container", image=IMAGE), by) for by in ENGINES},
            "inline, serve (HTTP)": (inline, Place("serve", address=address), ""),
            "Ray, function": (ray, Place(), ""),
            "Ray, task": (ray, Place("task", cpus=0.5), ""),
            "Ray, actor": (ray, Place("actor", **pool), ""),  # type: ignore[arg-type]
            "Ray, container by docker": (ray, Place("container", image=IMAGE, **pool), "docker"),  # type: ignore[arg-type]
            "Ray, serve (Ray Serve)": (ray, Place("serve", **pool), ""),  # type: ignore[arg-type]
        }
        found = measured(ways, Path(name), turns)
    measuring.write("places", {"batches": MANY - FEW, "turns": turns, "places": found})


if __name__ == "__main__":
    main()
