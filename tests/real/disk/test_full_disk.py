"""Disks that are full, read-only or somebody else's: clear errors, and running again goes on. Needs root to mount."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.core.nouns import Pipeline, Step
from penstock.core.reading import read_table
from penstock.core.storage import Posix
from penstock.core.verify import verify
from penstock.errors import RunError, StorageError
from penstock.runners.inline import Inline
from penstock.sinks.hdf5 import Hdf5, compact
from penstock.sinks.parquet import Parquet
from penstock.sinks.zarr import Zarr
from penstock.testing.parts import Numbers, Squares

FULL = "the disk is full; free some space and run again, finished units are kept"


def mount(folder: Path, *options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "penstock-test", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"these tests mount small disks and so need root: {done.stderr}")


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[..., Path]]:
    """Mounts a disk of a given size; called again, gives it another size and keeps what it holds."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def sized(*options: str) -> Path:
        mount(folder, *(["remount"] if mounted else []), *options)
        mounted.append(1)
        return folder

    yield sized
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def line(sink) -> Pipeline:
    return Pipeline("line", Numbers(12, 200), sink, (Step(Squares(bad=(5,))),))


def refusal(pipeline: Pipeline) -> str:
    """What a run says when it cannot go on; nothing when it can."""
    try:
        Inline().run(pipeline)
    except (RunError, StorageError) as error:
        return str(error)
    return ""


SINKS = [
    lambda root: Hdf5(root, file_bytes=60_000),
    lambda root: Parquet(root, file_bytes=40_000),
    lambda root: Zarr(root, file_bytes=60_000),
]


@pytest.mark.parametrize("sink", SINKS, ids=["hdf5", "parquet", "zarr"])
def test_whenever_the_disk_is_full_it_is_said_and_running_again_goes_on(disk, tmp_path, sink):
    """At all moments: while parts, records, packed files, manifest and index are written."""
    wanted = Inline().run(line(sink(str(tmp_path / "whole"))))
    said = whole = 0
    for kibibytes in range(40, 700, 20):
        folder = disk(f"size={kibibytes}k")
        pipeline = line(sink(str(folder / str(kibibytes))))
        if text := refusal(pipeline):
            assert FULL in text
            assert str(folder) in text
            said += 1
        else:
            whole += 1
        disk("size=50m")
        report = Inline().run(pipeline)
        assert report.manifest.sha256 == wanted.manifest.sha256
        assert report.manifest.version == 1
        assert verify(pipeline.sink.uri).rows == 2199
        subprocess.run(["rm", "-r", str(folder / str(kibibytes))], check=True)
    assert said > 10
    assert whole > 1, "the last ones had room"


def test_what_was_finished_before_the_disk_was_full_is_kept(disk):
    pipeline = line(Parquet(str(disk("size=120k") / "out"), file_bytes=40_000))
    with pytest.raises(RunError, match=rf"line: cannot write .*: {FULL}"):
        Inline().run(pipeline)
    disk("size=50m")
    assert Inline().run(pipeline).skipped > 2
    assert read_table(pipeline.sink.uri).num_rows == 2199


def test_a_dataset_too_large_for_the_disk_in_one_file(disk, tmp_path):
    """HDF5 that meets a full disk ends its process; so the space is taken before."""
    sink = Hdf5(str(tmp_path / "out"))
    Inline().run(line(sink))
    folder = disk("size=1m")
    with pytest.raises(StorageError, match=rf"cannot write {folder}.*: {FULL}"):
        compact(sink.uri, str(folder / "all.h5"))
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    disk("size=50m")
    assert compact(sink.uri, str(folder / "all.h5")).stat().st_size < 1 << 20, "what was taken too much went back"


def test_a_read_only_disk(disk):
    folder = disk("size=1m")
    disk("ro")
    with pytest.raises(StorageError, match=rf"cannot write {folder}/x: the file system is read-only; choose another"):
        Posix().create(str(folder / "x"), b"1")
    with pytest.raises(RunError, match="the file system is read-only; choose another folder"):
        Inline().run(line(Hdf5(str(folder / "out"))))


def test_a_folder_of_somebody_else():
    """As the user `nobody`, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        secret = Path(folder, "secret")
        secret.write_bytes(b"1")
        secret.chmod(0o600)
        assert as_nobody(functools.partial(attempt, folder)) == [
            f"cannot write {folder}/x: permission denied; check owner and mode",
            f"cannot write below {folder}/out: permission denied on {folder}; check owner and mode",
            f"cannot read {folder}/secret: permission denied; check owner and mode",
        ]


def attempt(folder: str) -> Iterator[str]:
    for verb in (
        lambda: Posix().create(f"{folder}/x", b"1"),
        lambda: Posix().free_bytes(f"{folder}/out"),
        lambda: Posix().read(f"{folder}/secret"),
    ):
        try:
            verb()
        except StorageError as error:
            yield str(error)


def as_nobody(attempt: Callable[[], Iterator[str]]) -> list[str]:
    """The texts that *attempt* gives when an ordinary user tries."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        os.write(writer, "\n".join(attempt()).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        return file.read().splitlines()
