"""Copies on this machine's disk; those to and from S3 are in tests/real/s3."""

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core import copying
from penstock.core.copying import copy, etag_of
from penstock.core.dataset import existing, versions
from penstock.core.nouns import Pipeline, Step
from penstock.core.reading import read_table
from penstock.core.verify import verify
from penstock.errors import DatasetError, StorageError
from penstock.runners.inline import Inline
from penstock.sinks.hdf5 import Hdf5
from penstock.sinks.parquet import Parquet
from penstock.testing.parts import Numbers, Squares


def make(root: Path, sink=Parquet, count: int = 5, **options) -> str:
    Inline().run(Pipeline("line", Numbers(count), sink(str(root), **options), (Step(Squares(bad=(3,))),)))
    return str(root)


class Counting:
    """A meter; kills the copy by an exception after some bytes when that is asked for."""

    def __init__(self, stop_after: int = 1 << 60) -> None:
        self.files, self.size, self.seen, self.stop_after, self.lock = 0, 0, 0, stop_after, threading.Lock()

    def begin(self, files, size_bytes):
        self.files, self.size = files, size_bytes

    def add(self, size_bytes):
        with self.lock:
            self.seen += size_bytes
            if self.seen > self.stop_after:
                raise ZeroDivisionError("the test ends the copy here")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- files and folders -----------------------------------------------------------------------------------


def test_a_file_gets_the_name_that_is_given_or_its_own_in_a_folder(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    assert copy(str(tmp_path / "a.txt"), str(tmp_path / "new" / "b.txt")).files == 1
    copy(str(tmp_path / "a.txt"), f"{tmp_path}/other/")
    copy(str(tmp_path / "a.txt"), str(tmp_path / "new"))
    found = content(tmp_path)
    assert found == dict.fromkeys(["a.txt", "new/b.txt", "other/a.txt", "new/a.txt"], b"text"), "and no scratch file"


@settings(max_examples=15)
@given(st.dictionaries(st.from_regex(r"[a-c]/[a-c]{1,3}", fullmatch=True), st.binary(max_size=40), max_size=6))
def test_a_folder_arrives_as_it_is_and_a_second_copy_does_nothing(tmp_path_factory, files):
    root = tmp_path_factory.mktemp("copy")
    (root / "from").mkdir()
    for name, data in files.items():
        (root / "from" / name).parent.mkdir(exist_ok=True)
        (root / "from" / name).write_bytes(data)
    first = copy(str(root / "from"), str(root / "to"), at_once=3)
    second = copy(str(root / "from") + "/", str(root / "to") + "/")
    assert content(root / "to" if files else root / "from") == files
    assert (first.files, first.skipped) == (len(files), 0)
    assert (second.files, second.skipped) == (len(files), len(files))
    assert first.size_bytes == sum(map(len, files.values()))


def test_a_changed_file_of_the_same_size_is_copied_again_and_hidden_ones_are_left_out(tmp_path):
    (tmp_path / "from" / ".git").mkdir(parents=True)
    (tmp_path / "from" / ".git" / "x").write_text("x")
    for name in "ab":
        (tmp_path / "from" / name).write_text("old")
    copy(str(tmp_path / "from"), str(tmp_path / "to"))
    (tmp_path / "from" / "a").write_text("new")
    (tmp_path / "to" / "kept").write_text("k")
    done = copy(str(tmp_path / "from"), str(tmp_path / "to"))
    assert done.skipped == 1
    assert content(tmp_path / "to") == {"a": b"new", "b": b"old", "kept": b"k"}


def test_every_byte_is_told_of(tmp_path):
    (tmp_path / "from").mkdir()
    for at in range(5):
        (tmp_path / "from" / str(at)).write_bytes(b"x" * at * 1000)
    meter = Counting()
    copy(str(tmp_path / "from"), str(tmp_path / "to"), meter=meter)
    assert (meter.files, meter.size, meter.seen) == (5, 10_000, 10_000)
    copy(str(tmp_path / "from"), str(tmp_path / "to"), meter=(meter := Counting()))
    assert meter.seen == 10_000


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(StorageError, match=r"nothing: no such file or folder; check the spelling"):
        copy(str(tmp_path / "nothing"), str(tmp_path / "to"))


def test_a_target_without_room_names_file_and_cause(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text("a")
    with pytest.raises(StorageError, match=r"cannot write .*: Not a directory"):
        copy(str(tmp_path / "a"), str(tmp_path / "b" / "c" / "d"))


@pytest.mark.parametrize("target", ["{}/from", "{}/from/inner", "file://{}/from/x"])
def test_a_folder_is_not_copied_into_itself(tmp_path, target):
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a").write_text("a")
    with pytest.raises(StorageError, match="it would be copied into itself; choose another place"):
        copy(str(tmp_path / "from"), target.format(tmp_path))


def test_a_file_that_changes_meanwhile_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    there = copying._is_there

    def changing(file):
        (tmp_path / "a").write_text("other")
        return there(file)

    monkeypatch.setattr(copying, "_is_there", changing)
    with pytest.raises(StorageError, match="it changed while the run was going on; run again"):
        copy(str(tmp_path / "a"), str(tmp_path / "b"))
    assert not (tmp_path / "b").exists()


# --- datasets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sink", [Parquet, Hdf5])
def test_a_dataset_arrives_whole_with_its_version_index_and_quarantine(tmp_path, sink):
    source = make(tmp_path / "from", sink)
    done = copy(source, str(tmp_path / "to"))
    manifest = verify(str(tmp_path / "to"))
    assert done.manifest == manifest
    assert read_table(str(tmp_path / "to")).equals(read_table(source))
    assert (manifest.version, manifest.sha256, manifest.bad_rows) == (1, existing(source).sha256, 1)
    there = content(tmp_path / "to")
    assert {name: data for name, data in content(tmp_path / "from").items() if name in there} == {
        name: data for name, data in there.items() if name != "index.h5"
    } | ({"index.h5": (tmp_path / "from" / "index.h5").read_bytes()} if sink is Hdf5 else {})
    assert any(name.startswith("quarantine/") for name in there)
    assert (tmp_path / "to" / "index.h5").exists() == (sink is Hdf5)


def test_a_run_at_the_copy_knows_what_is_done(tmp_path):
    copy(make(tmp_path / "from"), str(tmp_path / "to"))
    line = Pipeline("line", Numbers(5), Parquet(str(tmp_path / "to")), (Step(Squares(bad=(3,))),))
    assert Inline().run(line).skipped == 5


def test_only_what_the_newest_manifest_names_is_copied(tmp_path):
    make(tmp_path / "from", count=3, file_bytes=0)
    source = make(tmp_path / "from", count=5)
    (tmp_path / "from" / "parts" / "stray.parquet").write_text("stray")
    copy(source, str(tmp_path / "to"))
    assert existing(str(tmp_path / "to")).version == 2
    named = set(existing(source).parts()["path"].to_pylist())
    assert {f"parts/{path.name}" for path in (tmp_path / "to" / "parts").iterdir()} == named


def test_a_second_copy_skips_everything_and_makes_no_version(tmp_path):
    source, target = make(tmp_path / "from", Hdf5), str(tmp_path / "to")
    first = copy(source, target)
    again = copy(source, target)
    assert (again.skipped, again.manifest) == (first.files, first.manifest)
    assert versions(target) == [1]


@pytest.mark.parametrize("bytes_before", [0, 1, 3000, 6000])
def test_a_copy_that_was_ended_shows_no_dataset_and_goes_on(tmp_path, bytes_before):
    source, target = make(tmp_path / "from", count=6, file_bytes=0), str(tmp_path / "to")
    with pytest.raises(ZeroDivisionError):
        copy(source, target, at_once=1, meter=Counting(bytes_before))
    assert versions(target) == []
    assert not (tmp_path / "to" / "manifest.json").exists()
    done = copy(source, target)
    assert (done.skipped > 0) == (bytes_before >= 3000), "whole parts are not copied twice"
    assert read_table(target).equals(read_table(source))
    assert not [name for name in content(tmp_path / "to") if ".tmp" in name]


def test_a_part_that_is_wrong_at_the_target_is_put_right(tmp_path):
    source, target = make(tmp_path / "from"), str(tmp_path / "to")
    copy(source, target)
    [part] = (tmp_path / "to" / "parts").iterdir()
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    copy(source, target)
    verify(target)


def test_another_dataset_at_the_target_gets_a_new_version(tmp_path):
    target = make(tmp_path / "to", count=9)
    done = copy(make(tmp_path / "from"), target)
    assert done.manifest.version == 2
    assert read_table(target).equals(read_table(str(tmp_path / "from")))
    assert json.loads((tmp_path / "to" / "manifest.json").read_text())["version"] == 2


def test_a_missing_part_is_refused(tmp_path):
    source = make(tmp_path / "from")
    [part] = (tmp_path / "from" / "parts").iterdir()
    part.unlink()
    with pytest.raises(DatasetError, match=r"parts/.* is missing; restore it, or make the dataset anew"):
        copy(source, str(tmp_path / "to"))
    assert versions(str(tmp_path / "to")) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda data: data[:-1] + b"?", "its hash is not that of the manifest"),
        (lambda data: data + b"?", r"it has \d+ bytes, \d+ were written"),
    ],
)
def test_a_changed_part_is_refused(tmp_path, change, text):
    source = make(tmp_path / "from")
    [part] = (tmp_path / "from" / "parts").iterdir()
    part.write_bytes(change(part.read_bytes()))
    with pytest.raises(DatasetError, match=rf"parts/.* is damaged: {text}; restore it, or make the dataset anew"):
        copy(source, str(tmp_path / "to"))
    assert versions(str(tmp_path / "to")) == []


def test_a_missing_parts_table_is_refused(tmp_path):
    source = make(tmp_path / "from")
    (tmp_path / "from" / "manifests" / f"{existing(source).parts_sha256}.parquet").unlink()
    with pytest.raises(DatasetError, match=r"manifests/.* is missing"):
        copy(source, str(tmp_path / "to"))


def test_a_manifest_newer_than_this_reader_is_refused(tmp_path):
    source = make(tmp_path / "from")
    path = tmp_path / "from" / "manifests" / "00000001.json"
    later = json.loads(path.read_text())
    path.write_text(json.dumps({"penstock": 2, "pieces": later["parts_sha256"]}))
    with pytest.raises(DatasetError, match="its manifest has form 2, this Penstock reads form 1; install a later one"):
        copy(source, str(tmp_path / "to"))
    assert not (tmp_path / "to").exists()


def test_a_folder_of_datasets_brings_their_manifests_last(tmp_path, monkeypatch):
    make(tmp_path / "out" / "a")
    make(tmp_path / "out" / "b", Hdf5)
    seen, carried = [], copying._carried
    monkeypatch.setattr(copying, "_carried", lambda file, meter: seen.append(file.target) or carried(file, meter))
    copy(str(tmp_path / "out"), str(tmp_path / "to"), at_once=1)
    manifests = [copying._is_manifest(target) for target in seen]
    assert manifests == sorted(manifests)
    assert sum(manifests) == 2
    for name in "ab":
        verify(str(tmp_path / "to" / name))


def test_many_copies_to_one_place_at_once_give_one_dataset(tmp_path):
    source, target = make(tmp_path / "from", count=6, file_bytes=0), str(tmp_path / "to")
    errors = []

    def one():
        try:
            copy(source, target, at_once=2)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert versions(target) == [1]
    verify(target)


# --- ETags -----------------------------------------------------------------------------------------------


def test_the_etag_of_pieces_is_the_md5_of_their_md5s(tmp_path):
    """Held against moto's server side, which follows https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html"""
    import boto3
    from moto import mock_aws

    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * 4 * 1024 * 17)  # 17 MiB: two pieces and a bit
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        client.create_bucket(Bucket="bucket")
        client.upload_file(str(path), "bucket", "pieces")
        client.put_object(Bucket="bucket", Key="once", Body=path.read_bytes())
        found = {name: client.head_object(Bucket="bucket", Key=name)["ETag"].strip('"') for name in ("pieces", "once")}
    assert found == {"pieces": etag_of(path, pieces=True), "once": etag_of(path, pieces=False)}
    assert found["pieces"].endswith("-3")
