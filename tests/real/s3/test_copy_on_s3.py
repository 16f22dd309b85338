"""``penstock copy`` between disk and a real S3 server, as job scripts call it."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from penstock.core.copying import copy
from penstock.core.dataset import existing, versions
from penstock.core.nouns import Pipeline, Step
from penstock.core.reading import read_table
from penstock.core.storage import join, store_of
from penstock.core.verify import verify
from penstock.errors import DatasetError
from penstock.runners.inline import Inline
from penstock.sinks.hdf5 import Hdf5
from penstock.testing.parts import Numbers, Squares

PENSTOCK = str(Path(sys.executable).with_name("penstock"))


def make(root: str, count: int = 5, **options) -> str:
    Inline().run(Pipeline("line", Numbers(count), Hdf5(root, **options), (Step(Squares(bad=(3,))),)))
    return root


def call(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([PENSTOCK, "copy", *map(str, words)], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("size_bytes", [0, 5, (64 << 20) + 12345])
def test_a_file_goes_there_and_back_and_is_known_when_it_is_there(s3_root, tmp_path, size_bytes):
    """64 MiB and more go in pieces, and have another kind of ETag."""
    (tmp_path / "a").write_bytes(os.urandom(size_bytes))
    assert copy(str(tmp_path / "a"), f"{s3_root}/a").skipped == 0
    assert copy(str(tmp_path / "a"), f"{s3_root}/a").skipped == 1
    assert copy(f"{s3_root}/a", str(tmp_path / "b")).skipped == 0
    assert copy(f"{s3_root}/a", str(tmp_path / "b")).skipped == 1
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    (tmp_path / "a").write_bytes(b"x" * size_bytes)
    assert copy(str(tmp_path / "a"), f"{s3_root}/a").skipped == (size_bytes == 0)


def test_a_folder_of_results_goes_there_and_back(s3_root, tmp_path):
    for name in ("a", "deep/er/b", "deep/c d+ü"):
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).write_text(name)
    done = call(tmp_path / "from", f"{s3_root}/results")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{s3_root}/results: 3 files, 21 bytes (0 files were there already)\n"
    assert "(3 files were there already)" in call(tmp_path / "from", f"{s3_root}/results/").stdout
    call(f"{s3_root}/results", tmp_path / "to")
    assert (tmp_path / "to" / "deep" / "c d+ü").read_text() == "deep/c d+ü"
    copy(f"{s3_root}/results/a", f"{s3_root}/other/")
    assert store_of(s3_root).read(f"{s3_root}/other/a") == b"a"


def test_a_dataset_goes_from_disk_over_two_places_on_s3_back_to_disk(s3_root, tmp_path):
    source = make(str(tmp_path / "from"), file_bytes=0)
    line = [source, f"{s3_root}/one", f"{s3_root}/two", str(tmp_path / "to")]
    for here, there in pairwise(line):
        done = call(here, there)
        assert done.returncode == 0, done.stderr
        assert "(0 files were there already), version 1 with 99 rows" in done.stdout
        verify(there)
    assert read_table(line[-1]).equals(read_table(source))
    assert (tmp_path / "to" / "index.h5").exists(), "made where there is a file system"
    assert "(9 files were there already)" in call(*line[1:3]).stdout


def assert_whole_but_for_its_index(uri: str) -> None:
    """What is published has all its parts; the index, which comes last, may be what the kill has prevented."""
    index = Path(uri) / "index.h5"
    if uri.startswith("s3://") or index.exists():
        verify(uri)
    else:
        with pytest.raises(DatasetError, match=r"index.h5 is missing; run the pipeline or the copy again"):
            verify(uri)


@pytest.mark.parametrize("upward", [True, False])
def test_a_copy_killed_at_random_goes_on_where_it_was(s3_root, tmp_path, upward):
    source = make(str(tmp_path / "from"), count=60, file_bytes=0)
    if upward:
        target = f"{s3_root}/to"
    else:
        source, target = copy(source, f"{s3_root}/from").manifest.uri, str(tmp_path / "to")
    for pause in (1.0, 1.3, 1.6):
        process = subprocess.Popen([PENSTOCK, "copy", "--at-once", "2", source, target], stdout=subprocess.PIPE)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if versions(target):
            assert_whole_but_for_its_index(target)
    call(source, target)
    assert verify(target).sha256 == existing(source).sha256
    assert versions(target) == [1]


def test_missing_and_changed_parts_on_s3_are_refused(s3_root, tmp_path):
    source = make(f"{s3_root}/from")
    [part] = existing(source).parts()["path"].unique().to_pylist()
    data = store_of(source).read(join(source, part))
    store_of(source).replace(join(source, part), data[:-1] + b"?")
    done = call(source, tmp_path / "to")
    assert done.returncode == 1
    assert f"{part} is damaged: its hash is not that of the manifest; restore it, or make the" in done.stderr
    store_of(source).remove(join(source, part))
    with pytest.raises(DatasetError, match="is missing; restore it"):
        copy(source, str(tmp_path / "to"))
    assert versions(str(tmp_path / "to")) == []


def test_a_bucket_that_does_not_exist_is_an_error_of_one_line(s3, tmp_path):
    done = call("s3://penstock-no-such-bucket/x", tmp_path / "x")
    assert done.returncode == 1
    assert "there is no such" in done.stderr
    assert "Traceback" not in done.stderr
