"""S3 storage against a real server: the same promises as on POSIX."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penstock.core import storage
from penstock.core.storage import S3, join, local_copy, publish, store_of
from penstock.errors import StorageError

STORE = S3()


@pytest.fixture
def other_credentials(s3, monkeypatch):
    """Sets the environment, and a client that has read it."""

    def use(**more: str | None) -> None:
        for name, value in more.items():
            monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
        storage._client.cache_clear()

    yield use
    monkeypatch.undo()
    storage._client.cache_clear()


@pytest.mark.parametrize("name", ["plain", "with space", "größe-数据", "a+b&c=d#e%20", "x" * 200])
def test_bytes_come_back_from_awkward_names(s3_root, name):
    uri = join(s3_root, name, "größe 1.bin")
    assert STORE.create(uri, b"abcdef")
    assert STORE.read(uri) == b"abcdef"
    entry = STORE.entry(uri)
    assert (entry.uri, entry.size_bytes) == (uri, 6)
    with STORE.open(uri, 2, entry.etag) as file:
        assert file.read() == b"cdef"
    with STORE.open(uri, 6) as file:
        assert file.read() == b"", "from its very end"
    assert [e.uri for e in STORE.list(join(s3_root, name))] == [uri]
    assert [e.uri for e in STORE.below(s3_root)] == [uri]
    with local_copy(uri) as path:
        assert path.read_bytes() == b"abcdef"
    assert not path.exists()
    STORE.remove(uri)
    STORE.remove(uri)
    assert STORE.entry(uri) is None
    assert STORE.read(uri) is None


def test_the_store_of_an_s3_address_is_this_one(s3_root):
    assert isinstance(store_of(s3_root), S3)


def test_a_second_create_loses_and_changes_nothing(s3_root):
    assert STORE.create(f"{s3_root}/x", b"first")
    assert not STORE.create(f"{s3_root}/x", b"second")
    assert STORE.read(f"{s3_root}/x") == b"first"
    STORE.replace(f"{s3_root}/x", b"third")
    assert STORE.read(f"{s3_root}/x") == b"third"


def test_sixteen_threads_one_winner(s3_root):
    for turn in range(10):
        name = f"{s3_root}/{turn}"
        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(lambda i, name=name: STORE.create(name, str(i).encode()), range(16)))
        assert sum(won) == 1
        assert STORE.read(name) == str(won.index(True)).encode()


def test_three_thousand_objects_are_a_stream(s3_root):
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: STORE.replace(f"{s3_root}/{i % 7}/{i:04d}", b"x"), range(3000)))
    pages = []
    events = storage._client().meta.events
    events.register("before-call.s3.ListObjectsV2", lambda **_: pages.append(1), unique_id="test")
    try:
        stream = STORE.list(s3_root)
        first = next(stream)
        assert len(pages) == 1, "the first entry comes with the first page"
        found = [first, *stream]
    finally:
        events.unregister("before-call.s3.ListObjectsV2", unique_id="test")
    assert [e.uri for e in found] == sorted(f"{s3_root}/{i % 7}/{i:04d}" for i in range(3000))
    assert len(pages) >= 3
    assert len(list(STORE.list(f"{s3_root}/*/??0?"))) == len([i for i in range(3000) if i % 100 < 10])


def test_neighbours_with_the_same_beginning_are_not_listed(s3_root):
    for name in ("a/x", "ab/x", "a.x", ".hidden/x", "a/.y"):
        STORE.replace(f"{s3_root}/{name}", b"1")
    assert [e.uri for e in STORE.list(f"{s3_root}/a")] == [f"{s3_root}/a/x"]
    assert [e.uri for e in STORE.list(f"{s3_root}/a/")] == [f"{s3_root}/a/x"]
    assert [e.uri for e in STORE.list(f"{s3_root}/a.x")] == [f"{s3_root}/a.x"]
    assert [e.uri for e in STORE.list(f"{s3_root}/a*/*")] == [f"{s3_root}/a/x", f"{s3_root}/ab/x"]
    assert list(STORE.list(f"{s3_root}/nothing*")) == []
    assert list(STORE.below(f"{s3_root}/nothing")) == []


def test_a_whole_bucket_is_listed(s3, s3_root):
    STORE.replace(f"{s3_root}/x", b"1")
    for address in (s3, f"{s3}/"):
        assert f"{s3_root}/x" in [e.uri for e in STORE.list(address)]


def test_a_changed_object_is_refused(s3_root):
    STORE.replace(f"{s3_root}/x", b"1")
    entry = STORE.entry(f"{s3_root}/x")
    STORE.replace(f"{s3_root}/x", b"2")
    with pytest.raises(StorageError, match=r"cannot read s3://.*/x: it changed while the run was going on; run again"):
        STORE.open(entry.uri, etag=entry.etag)


def test_large_files_go_in_several_parts(s3_root, monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "_MULTIPART_BYTES", 1 << 20)
    data = os.urandom(17 << 20)
    with publish(s3_root, ".bin") as (path, upload):
        path.write_bytes(data)
        upload("large.bin")
    assert not path.exists()
    assert STORE.read(f"{s3_root}/large.bin") == data
    assert "-" in STORE.entry(f"{s3_root}/large.bin").etag, "the ETag of a multipart upload"
    with STORE.open(f"{s3_root}/large.bin", 16 << 20) as file:
        assert file.read() == data[16 << 20 :]


def test_writing_is_tried_before_a_run_and_nothing_stays(s3_root):
    assert STORE.free_bytes(s3_root) is None
    assert list(STORE.below(s3_root)) == []


# --- errors ----------------------------------------------------------------------------------------------


def test_a_missing_object_and_a_missing_bucket(s3_root):
    with pytest.raises(StorageError, match=r"cannot read s3://.*/none: there is no such object; check the spelling"):
        STORE.open(f"{s3_root}/none")
    with pytest.raises(StorageError, match=r"cannot list s3://.*/none: there is no such object or prefix; check the"):
        list(STORE.list(f"{s3_root}/none"))
    wanted = "no-such-bucket/.*: there is no such bucket; create it or check the spelling"
    for attempt in (
        lambda: STORE.read("s3://no-such-bucket/x"),
        lambda: STORE.open("s3://no-such-bucket/x"),
        lambda: STORE.create("s3://no-such-bucket/x", b""),
        lambda: list(STORE.list("s3://no-such-bucket/x")),
        lambda: list(STORE.below("s3://no-such-bucket/x")),
        lambda: STORE.free_bytes("s3://no-such-bucket/x"),
    ):
        with pytest.raises(StorageError, match=wanted):
            attempt()


def test_a_wrong_secret(s3_root, other_credentials):
    other_credentials(AWS_SECRET_ACCESS_KEY="wrong")
    wanted = "the secret key is wrong; check AWS_SECRET_ACCESS_KEY or the profile"
    with pytest.raises(StorageError, match=rf"cannot write s3://.*/x: {wanted}"):
        STORE.create(f"{s3_root}/x", b"1")
    with pytest.raises(StorageError, match=wanted):
        list(STORE.list(s3_root))
    with pytest.raises(StorageError, match="access denied; check the credentials and their permissions"):
        STORE.entry(f"{s3_root}/x")


def test_a_wrong_key(s3_root, other_credentials):
    other_credentials(AWS_ACCESS_KEY_ID="NOBODY")
    with pytest.raises(StorageError, match="the access key is not known; check AWS_ACCESS_KEY_ID or the profile"):
        STORE.read(f"{s3_root}/x")


def test_no_credentials(s3_root, other_credentials, tmp_path):
    nothing = {"AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}
    none = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_EC2_METADATA_DISABLED": "true"}
    other_credentials(**nothing, **none)
    with pytest.raises(StorageError, match="there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        STORE.read(f"{s3_root}/x")


def test_nobody_answers(s3_root, other_credentials):
    other_credentials(AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_MAX_ATTEMPTS="1")
    with pytest.raises(StorageError, match=r"cannot read s3://.*/x: Could not connect to the endpoint URL"):
        STORE.read(f"{s3_root}/x")


def test_a_stream_that_breaks_off_is_our_error(s3_root, monkeypatch):
    STORE.replace(f"{s3_root}/x", b"x" * (5 << 20))
    from botocore.exceptions import IncompleteReadError
    from botocore.response import StreamingBody

    def cut(self, amt=None):
        raise IncompleteReadError(actual_bytes=1, expected_bytes=2)

    stream = STORE.open(f"{s3_root}/x")
    monkeypatch.setattr(StreamingBody, "read", cut)
    with pytest.raises(StorageError, match=r"cannot read s3://.*/x: 1 read, but total bytes expected is 2"):
        stream.read()


def test_scratch_files_of_s3_lie_in_a_folder_of_our_own():
    folder = Path(STORE.scratch("s3://bucket"))
    assert folder.stat().st_mode & 0o777 == 0o700
