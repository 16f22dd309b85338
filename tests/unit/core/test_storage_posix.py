"""POSIX storage: exactly one winner, no half files, errors that say what to do."""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core import storage
from penstock.core.plugins import adapter
from penstock.core.storage import Posix, clear_scratch, join, local_copy, parent, publish, store_of
from penstock.errors import StorageError
from penstock.sinks.parquet import Parquet

STORE = Posix()


@pytest.fixture(params=["plain", "with space", "größe-数据", "[br]*?{x}", "quo'te\"s"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Folders whose names are awkward."""
    return str(tmp_path / request.param)


def test_bytes_come_back_from_awkward_folders(folder: str) -> None:
    name = join(folder, "deep", "größe 1.bin")
    assert STORE.create(name, b"abcdef")
    assert STORE.read(name) == b"abcdef"
    entry = STORE.entry(name)
    assert entry is not None
    assert (entry.uri, entry.size_bytes) == (name, 6)
    with STORE.open(name, 2, entry.etag) as file:
        assert file.read() == b"cdef"
    assert [e.uri for e in STORE.list(folder)] == [name]
    assert [e.uri for e in STORE.below(folder)] == [name]
    with local_copy(name) as path:
        assert path.read_bytes() == b"abcdef"
    STORE.remove(name)
    STORE.remove(name)
    assert STORE.entry(name) is None
    assert STORE.read(name) is None


def test_file_addresses_are_paths(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/x"
    store_of(uri).replace(uri, b"1")
    assert (tmp_path / "x").read_bytes() == b"1"


def test_a_second_create_loses_and_changes_nothing(tmp_path: Path) -> None:
    name = str(tmp_path / "x")
    assert STORE.create(name, b"first")
    assert not STORE.create(name, b"second")
    assert STORE.read(name) == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["x"], "no temporary file stays"


def test_sixteen_threads_one_winner(tmp_path: Path) -> None:
    for turn in range(20):
        name = str(tmp_path / f"{turn}" / "x")
        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(lambda i, name=name: STORE.create(name, str(i).encode()), range(16)))
        assert sum(won) == 1
        assert STORE.read(name) == str(won.index(True)).encode()


def test_four_processes_one_winner_each(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{turn}") for turn in range(50)]
    with get_context("fork").Pool(4) as pool:
        won = pool.starmap(STORE.create, [(name, str(i).encode()) for name in names for i in range(4)], chunksize=1)
    for at, name in enumerate(names):
        winners = won[4 * at : 4 * at + 4]
        assert sum(winners) == 1
        assert STORE.read(name) == str(winners.index(True)).encode()


def test_a_lost_reply_of_nfs_counts_as_won(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link(source: Path, target: Path) -> None:
        real(source, target)
        raise FileExistsError("the link was made; the reply was lost and the server asked again")

    monkeypatch.setattr(os, "link", link)
    assert STORE.create(str(tmp_path / "x"), b"1")


def test_readers_of_a_replaced_file_see_old_or_new_never_a_mixture(tmp_path: Path) -> None:
    name = str(tmp_path / "x")
    values = [bytes([i]) * 200_000 for i in range(8)]
    STORE.replace(name, values[0])
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(lambda: [STORE.replace(name, values[i % 8]) for i in range(60)])
        while not writing.done():
            assert STORE.read(name) in values
        writing.result()


def test_files_and_folders_are_synced_before_and_after_the_name_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    sync, link, replace = os.fsync, os.link, Path.replace

    def told_sync(number: int) -> None:
        said.append("folder" if Path(f"/proc/self/fd/{number}").is_dir() else "file")
        sync(number)

    monkeypatch.setattr(os, "fsync", told_sync)
    monkeypatch.setattr(os, "link", lambda *a: (said.append("name"), link(*a)))
    monkeypatch.setattr(Path, "replace", lambda *a: (said.append("name"), replace(*a)))
    STORE.create(str(tmp_path / "a"), b"1")
    assert said == ["file", "name", "folder"]
    said.clear()
    STORE.replace(str(tmp_path / "b"), b"1")
    assert said == ["file", "name", "folder"]
    with publish(str(tmp_path), ".x") as (path, upload):
        path.write_bytes(b"2")
        said.clear()
        upload("c")
    assert said == ["file", "name", "folder"]
    said.clear()
    STORE.create(str(tmp_path / "new" / "d"), b"1")
    assert said == ["folder", "file", "name", "folder"], "a new folder's own name is synced too"


def test_what_is_not_published_leaves_nothing(tmp_path: Path) -> None:
    with suppress(RuntimeError), publish(str(tmp_path), ".x") as (path, _):
        path.write_bytes(b"half")
        raise RuntimeError("boom")
    assert [str(p) for p in tmp_path.rglob("*") if p.is_file()] == []
    assert list(STORE.below(str(tmp_path))) == []


def test_errors_of_writing_libraries_become_ours(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match=r"cannot write .*\.x: the disk is full; free some space and run again"),
        publish(str(tmp_path), ".x"),
    ):
        raise OSError(28, "Error writing bytes to file")


def test_old_scratch_files_go_and_young_ones_stay(tmp_path: Path) -> None:
    folder = STORE.scratch(str(tmp_path))
    old, young = folder / "old", folder / "young"
    old.write_bytes(b"1")
    young.write_bytes(b"1")
    os.utime(old, (time.time() - 90_000, time.time() - 90_000))
    clear_scratch(str(tmp_path))
    assert [p.name for p in folder.iterdir()] == ["young"]


def test_hidden_files_are_not_listed(tmp_path: Path) -> None:
    for name in (".tmp/x", "a", ".b", "c/.d", "c/e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    assert [e.uri.removeprefix(f"{tmp_path}/") for e in STORE.list(str(tmp_path))] == ["a", "c/e"]


def test_below_takes_names_as_they_are_and_is_empty_when_nothing_is_there(tmp_path: Path) -> None:
    assert list(STORE.below(str(tmp_path / "not" / "there"))) == []


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.txt", ["a.txt"]),
        ("**/*.txt", ["a.txt", "d/b.txt", "d/e/c.txt"]),
        ("d/*.txt", ["d/b.txt"]),
        ("d/**", ["d/b.txt", "d/e/c.txt", "d/e/x.bin"]),
        ("?.txt", ["a.txt"]),
        ("d/e/[cx].*", ["d/e/c.txt", "d/e/x.bin"]),
        ("z*", []),
    ],
)
def test_globs(tmp_path: Path, pattern: str, wanted: list[str]) -> None:
    for name in ("a.txt", "d/b.txt", "d/e/c.txt", "d/e/x.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    found = [e.uri.removeprefix(f"{tmp_path}/") for e in STORE.list(str(tmp_path / pattern))]
    assert found == wanted
    by_python = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.glob(pattern) if p.is_file())
    if not pattern.endswith("**"):  # there pathlib names folders only
        assert found == by_python


def test_a_file_removed_while_listing_is_not_listed(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"1")
    stream = STORE.list(str(tmp_path))
    assert next(stream).uri.endswith("a")
    (tmp_path / "b").unlink()
    assert [e.uri[-1] for e in stream] == ["c"]


def test_a_link_that_leads_nowhere_is_an_error_and_not_a_gap(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "gone")
    with pytest.raises(StorageError, match=r"cannot list .*/a: the link leads nowhere; mend or remove it"):
        list(STORE.list(str(tmp_path)))


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    name = str(tmp_path / "x")
    STORE.replace(name, b"1")
    entry = STORE.entry(name)
    assert entry is not None
    STORE.replace(name, b"22")
    with pytest.raises(StorageError, match="it changed while the run was going on; run again"):
        STORE.open(name, etag=entry.etag)


def test_errors_say_where_what_and_what_to_do(tmp_path: Path) -> None:
    missing, file = str(tmp_path / "none"), tmp_path / "file"
    file.write_bytes(b"1")
    with pytest.raises(StorageError, match=r"cannot read .*/none: no such file or folder; check the spelling"):
        STORE.open(missing)
    with pytest.raises(StorageError, match=r"cannot list .*/none: no such file or folder; check the spelling"):
        list(STORE.list(missing))
    with pytest.raises(StorageError, match=r"cannot read .*: this is a folder, a file was needed"):
        STORE.open(str(tmp_path))
    with pytest.raises(StorageError, match=r"cannot write .*: a part of the path is a file, a folder was needed"):
        STORE.create(str(file / "x"), b"1")
    with pytest.raises(StorageError, match=r"cannot write below .*file is a file, a folder was needed"):
        STORE.free_bytes(str(file / "deep" / "x"))
    with pytest.raises(StorageError, match=r"gopher://x: the scheme 'gopher://' is not known; use a path, file:// or"):
        store_of("gopher://x")


def test_free_bytes_are_those_of_the_file_system(tmp_path: Path) -> None:
    free = STORE.free_bytes(str(tmp_path / "not" / "yet"))
    assert free is not None
    assert 0 < free <= os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize


def test_relative_addresses_start_at_the_folder_of_the_pipeline_file() -> None:
    def resolved(uri: str) -> str:
        return adapter(Parquet).validate_python({"uri": uri}, context={"folder": "/base/dir"}).uri

    assert resolved("out") == "/base/dir/out"
    assert resolved("../out/*.txt") == "/base/out/*.txt"
    assert resolved("/abs/x") == "/abs/x"
    assert resolved("s3://b/x") == "s3://b/x"
    assert resolved("~/x") == str(Path.home() / "x")
    assert adapter(Parquet).validate_python({"uri": "out"}).uri == "out", "without a file they stay as they are"


@given(
    st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["a", "*", "**", "?b", "[ab]"]), min_size=1, max_size=4),
)
def test_globs_mean_what_a_regular_expression_says(names: list[str], wanted: list[str]) -> None:
    one = {"*": "[^/]+", "**": "(?:/[^/]+)*"}
    parts = [one.get(part, part.replace("?", "[^/]")) for part in wanted]
    expression = "".join(part if part.startswith("(") else f"/{part}" for part in parts)
    assert storage._matcher("/".join(wanted))("/".join(names)) == bool(re.fullmatch(expression, f"/{'/'.join(names)}"))


def test_join_and_parent() -> None:
    assert join("s3://b/x/", "y", "z") == "s3://b/x/y/z"
    assert parent("s3://b/x/y") == "s3://b/x"
    assert parent("/x") == "/"
