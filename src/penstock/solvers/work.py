"""Work on a cluster: what is to be computed, the folder where it happens, and how to wait for its job.

::

    <cluster's folder>/<key of the work>/current           the name of the folder in use
    <cluster's folder>/<key of the work>/<name>/job.json   what the program is told; stdout, stderr, exit, results

The name is made afresh when the work begins and is part of the job's key. So work that was finished, and
whose folder is gone, is computed when it is asked for again, though the scheduler remembers its job.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from penstock.clusters.local import own_folder
from penstock.clusters.watch import wait
from penstock.core.dataset import sha256_of
from penstock.core.nouns import Cluster, Job, JobState, Status
from penstock.core.storage import Posix, download, join, store_of
from penstock.errors import JobError, UnitError

__all__ = ["Work", "computed", "job_key", "run_job"]

_TAIL_LINES = 40  # two ranks that abort print twenty lines of their own
_LOOKS_AGAIN_SECONDS = (1.0, 4.0)


@dataclass(frozen=True)
class Work:
    """What is to be computed by a program.

    Attributes:
        name: what people see in lists of jobs.
        what: plain data that tells this work from all other.
        command: program and arguments; the path of ``job.json`` is added.
        told: what ``job.json`` holds.
        results: names or globs of the files that the program leaves in its working folder; ``{item}`` stands for the
            number of the item that leaves them.
        inputs: addresses, and the names under which they are copied into the working folder first.
        items: how often the program is run.
        files: small data files by name, put beside ``job.json`` first.
    """

    name: str
    what: tuple[Any, ...]
    command: tuple[str, ...]
    told: Mapping[str, Any]
    results: tuple[str, ...]
    inputs: tuple[tuple[str, str], ...] = ()
    items: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


@contextmanager
def computed(work: Work, cluster: Cluster) -> Iterator[Path]:
    """A local folder with the results, once the job has ended well; everything is removed at the exit.

    What was begun by another process, or by this one before it was killed, is found again. A result that
    the block refuses (`UnitError`) is put aside, so that the next attempt computes it anew.

    Raises:
        JobError: the job failed, was cancelled, or nothing was heard of it.
    """
    root = join(_folder_of(cluster), job_key(*work.what)[:32])
    store = store_of(root)
    store.create(join(root, "current"), uuid.uuid4().hex[:12].encode())
    name = (store.read(join(root, "current")) or b"").decode()
    folder = join(root, name)
    for file, data in work.files.items():
        store.replace(join(folder, file), data)
    store.replace(join(folder, "job.json"), json.dumps(work.told, indent=1).encode())
    run_job(cluster, _job(work, folder, name))
    try:
        with _fetched(folder, work) as here:
            yield here
    except UnitError:
        store.remove(join(root, "current"))
        raise
    _remove(root)


def _job(work: Work, folder: str, name: str) -> Job:
    command = (*work.command, "job.json")
    inputs = (*work.inputs, *_carried(work, folder))
    return Job(
        job_key(*work.what, name), command, folder, work.name, work.items, inputs, work.results, work.environment
    )


def _carried(work: Work, folder: str) -> tuple[tuple[str, str], ...]:
    """The files beside ``job.json`` as inputs, where the program does not work in *folder* itself."""
    return () if isinstance(store_of(folder), Posix) else tuple((join(folder, name), name) for name in work.files)


@contextmanager
def _fetched(folder: str, work: Work) -> Iterator[Path]:
    """A folder of this machine with the results, each as the job noted it when it ended (`_left`)."""
    left = _left(folder, work.items)
    if isinstance(store_of(folder), Posix):
        here = Path(folder.removeprefix("file://"))
        for file in left:
            _look(file, here, folder, lambda: None)
        yield here
        return
    with tempfile.TemporaryDirectory(prefix="penstock-") as temporary:
        here = Path(temporary)
        for file in left:
            _look(file, here, folder, partial(_download, folder, file.name, here))
        for name in () if left else _matching(folder, work.results):
            _download(folder, name, here)
        yield here


@dataclass(frozen=True)
class _Left:
    """A result as the job's own wrapper saw it when the program had ended."""

    name: str
    bytes: int
    sha256: str

    def trouble(self, path: Path) -> str:
        """In what the file at *path* is another; empty where it is the same."""
        if not path.is_file():
            return "it is not there"
        if (size := path.stat().st_size) != self.bytes:
            return f"it has {size} bytes and should have {self.bytes}"
        return "" if sha256_of(path) == self.sha256 else "its bytes are others, by their sha256"


def _left(folder: str, items: int) -> list[_Left]:
    """What the exit records say of results; nothing where the cluster notes none."""
    suffixes = [f".{item}" for item in range(items)] if items > 1 else [""]
    files = [file for suffix in suffixes for file in _record(folder, suffix).get("results", ())]
    return [_Left(str(file["name"]), int(file["bytes"]), str(file["sha256"])) for file in files]


def _look(file: _Left, here: Path, folder: str, fetch: Callable[[], None]) -> None:
    """Have a result here as the job left it; a file system may take a while to show it. Raises `UnitError`."""
    for pause in (*_LOOKS_AGAIN_SECONDS, None):
        fetch()
        trouble = file.trouble(here / file.name)
        if not trouble:
            return
        if pause is not None:
            time.sleep(pause)
    raise UnitError(
        f"the result {file.name} in {folder} is not what the job left there: {trouble}; looked "
        f"{1 + len(_LOOKS_AGAIN_SECONDS)} times. Run again: it is computed anew"
    )


def _download(folder: str, name: str, here: Path) -> None:
    """Where it is there; else nothing."""
    uri = join(folder, name)
    if store_of(uri).entry(uri) is not None:
        download(uri, here / name)


def _matching(folder: str, results: tuple[str, ...]) -> Iterator[str]:
    """The names in *folder* that *results* mean."""
    patterns = [result.replace("{item}", "*") for result in results]
    for entry in store_of(folder).below(folder):
        name = entry.uri.removeprefix(folder).lstrip("/")
        if any(fnmatch(name, pattern) for pattern in patterns):
            yield name


def _remove(root: str) -> None:
    """First the pointer: work of which only a part is left has not begun."""
    store = store_of(root)
    store.remove(join(root, "current"))
    if isinstance(store, Posix):
        shutil.rmtree(root.removeprefix("file://"), ignore_errors=True)
    else:
        for entry in list(store.below(root)):
            store.remove(entry.uri)


def _folder_of(cluster: Cluster) -> str:
    return cluster.folder or private(own_folder())


def private(folder: str) -> str:
    """Make *folder* and the one above it, which is this user's alone, in the machine's temporary folder.

    Raises:
        JobError: somebody else was there first.
    """
    above = Path(folder).parent
    above.mkdir(mode=0o700, exist_ok=True)
    if above.stat().st_uid != os.getuid():
        raise JobError(
            f"{above} belongs to another user; set 'folder' of the cluster, or TMPDIR, to a place of your own"
        )
    return folder


def job_key(*what: Any) -> str:
    """The identity (hex) of a job over plain data: the same work has the same key, whoever submits it."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


# --- waiting ---------------------------------------------------------------------------------------------


def run_job(cluster: Cluster, job: Job, patience_seconds: float = 600.0) -> None:
    """Submit *job* (or find it, when it was submitted before) and wait until it has ended well.

    A failure that was none of its own is tried again up to ``cluster.retries`` times, and a program that asks to be
    continued is so as often as it asks, unless ``retries`` is 0. A job that failed is put
    aside, so that the next call runs it anew. For *patience_seconds* the cluster may be unable to say how it stands.

    Raises:
        JobError: it failed, was cancelled, or nothing was heard of it.
    """
    while True:
        native_id = cluster.submit(job)
        status = wait(cluster, native_id, patience_seconds)
        if status.state is JobState.DONE:
            return
        error = _failed(job, native_id, status)
        cluster.again(native_id, status)
        if not _goes_on(status, cluster.retries):
            raise error


def _goes_on(status: Status, retries: int) -> bool:
    """Whether an attempt follows one that did not end well. What asks to be continued may do so without limit."""
    return retries > 0 if status.continues else status.passing and status.attempt <= retries


def _failed(job: Job, native_id: str, status: Status) -> JobError:
    verb = "was cancelled" if status.state is JobState.CANCELLED else "failed"
    attempt = f" (attempt {status.attempt})" if status.attempt > 1 else ""
    return JobError(
        f"job {native_id} {verb}{attempt}: {status.why or 'the cluster does not say why'}"
        f"\n  command: {' '.join(job.command)}"
        f"\n  its files are kept below {job.folder}; the end of its stderr:\n{_tail(job)}"
    )


def _tail(job: Job) -> str:
    """Of the job, or of the first of its items that failed."""
    codes = ((f".{item}", _record(job.folder, f".{item}").get("code")) for item in range(job.items))
    suffix = next((suffix for suffix, code in codes if code), "") if job.items > 1 else ""
    text = store_of(job.folder).read(join(job.folder, f"stderr{suffix}"))
    if text is None:
        return "    (there is none)"
    lines = text.decode(errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:]) or "    (it is empty)"


def _record(folder: str, suffix: str) -> dict[str, Any]:
    """The exit record, of an item if there are several. File names in it may have any bytes."""
    found = store_of(folder).read(join(folder, f"exit{suffix}"))
    return dict(json.loads(found.decode(errors="replace"), strict=False)) if found else {}
