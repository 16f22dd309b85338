"""Processes that are killed for real: nothing is lost, nothing doubled, nothing left."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from pathlib import Path
from unittest import mock

import pytest

from penstock.core.nouns import Pipeline, Step
from penstock.core.reading import read_table
from penstock.core.storage import Posix
from penstock.core.verify import verify
from penstock.runners.inline import Inline
from penstock.sinks.hdf5 import Hdf5
from penstock.sinks.parquet import Parquet
from penstock.sinks.zarr import Zarr
from penstock.testing.parts import Numbers, Squares
from penstock.testing.sinks import _VERBS

SINKS = [
    lambda root: Hdf5(str(root), file_bytes=30_000),
    lambda root: Parquet(str(root), file_bytes=9000),
    lambda root: Zarr(str(root), file_bytes=12_000),
]
NAMES = ["hdf5", "parquet", "zarr"]


def line(sink, units: int) -> Pipeline:
    return Pipeline("line", Numbers(units, 10), sink, (Step(Squares(bad=(5,))),))


def begun(work) -> int:
    """A child process that runs *work*, and tells by its exit status whether that went well."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    return child


def in_a_child(work) -> int:
    """Run *work* in a child process; its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def dying_at(fatal: int, pipeline: Pipeline) -> None:
    """Kill this process before storage operation number *fatal*."""
    count = 0

    def mortal(verb):
        def doing(*args, **more):
            nonlocal count
            count += 1
            if count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return verb(*args, **more)

        return doing

    with mock.patch.multiple(Posix, **{verb: mortal(getattr(Posix, verb)) for verb in _VERBS}):
        Inline().run(pipeline)


@pytest.mark.parametrize("sink", SINKS, ids=NAMES)
def test_a_kill_before_any_operation_is_mended_by_running_again(tmp_path, sink):
    wanted = Inline().run(line(sink(tmp_path / "whole"), 3)).manifest
    killed = 0
    for fatal in range(1, 1000):
        pipeline = line(sink(tmp_path / str(fatal)), 3)
        if in_a_child(lambda at=fatal, pipeline=pipeline: dying_at(at, pipeline)) == 0:
            break
        killed += 1
        Inline().run(pipeline)
        assert verify(pipeline.sink.uri).sha256 == wanted.sha256
        parts = {f"parts/{path.name}" for path in Path(pipeline.sink.uri, "parts").iterdir()}
        assert parts == set(wanted.parts()["path"].to_pylist())
    assert killed > 30


@pytest.mark.parametrize("sink", SINKS, ids=NAMES)
def test_killed_again_and_again_at_any_time(tmp_path, sink):
    """Each child goes on where the one before was shot, until one comes through."""
    pipeline, shots, chance = line(sink(tmp_path / "out"), 40), 0, random.Random(1)
    # The first is shot in the middle by itself, since nobody knows when this process has its turn.
    assert in_a_child(lambda: dying_at(60, pipeline)) == signal.SIGKILL
    while True:
        child = begun(lambda: Inline().run(pipeline))
        time.sleep(chance.uniform(0.02, 0.25) * 1.05**shots)  # a slow machine needs longer for what a child must end
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert status in {0, signal.SIGKILL}, "it failed by itself"
        if status == 0:
            break
        shots += 1
    assert verify(pipeline.sink.uri).version == 1
    wanted = [x for x in range(400) if (x // 10) % 7 != 6 and x != 5]
    assert read_table(pipeline.sink.uri)["number"].to_pylist() == wanted


@pytest.mark.parametrize("sink", SINKS, ids=NAMES)
def test_eight_processes_that_run_the_same_pipeline_make_one_dataset(tmp_path, sink):
    """They know nothing of each other; whoever finishes first packs and sweeps under the others' feet."""
    pipeline = line(sink(tmp_path / "out"), 20)
    children = [begun(lambda: Inline().run(pipeline)) for _ in range(8)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    assert verify(pipeline.sink.uri).version == 1
    wanted = [x for x in range(200) if (x // 10) % 7 != 6 and x != 5]
    assert read_table(pipeline.sink.uri)["number"].to_pylist() == wanted
    parts = {f"parts/{path.name}" for path in Path(pipeline.sink.uri, "parts").iterdir()}
    assert parts == set(verify(pipeline.sink.uri).parts()["path"].to_pylist())
