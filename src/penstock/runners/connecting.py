"""Joining a Ray that is there, or starting one of our own; what stands in the way is told in our words."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from penstock.core.plan import Resources
from penstock.errors import PlanError

__all__ = ["connected", "given_or_around", "gpus_seen", "resources_of"]

_LOOK_SECONDS = 5.0
_MISSED = 3
_GONE = (
    "Ray's head at {} does not answer any more; unless it comes back with its state, Ray will end this process. "
    "Finished units are kept: when there is a head again, the same command goes on\n"
)


def given_or_around(address: str) -> str:
    """*address*, or where Ray says that it is around this process; a dashboard's address is not Ray's own."""
    around = os.environ.get("RAY_ADDRESS", "")
    return address or ("" if around.startswith(("http://", "https://")) else around)


@contextmanager
def connected(address: str, **own: Any) -> Iterator[None]:
    """Ray is up inside: the one at *address*, or with an empty one a Ray of our own with the settings *own*.

    A Ray that somebody else in this process started is used and left alone.

    Raises:
        PlanError: the Ray at *address* does not answer, or is another version.
    """
    _quiet()
    import ray

    if ray.is_initialized():
        yield
        return
    with ExitStack() as stack:
        how = {} if address else {**own, "include_dashboard": False, "_temp_dir": str(stack.enter_context(_folder()))}
        with _hushed(), _told(address):
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **how)
        stack.callback(ray.shutdown)
        if address:
            stack.enter_context(_guarded(ray.get_runtime_context().gcs_address))
        yield


@contextmanager
def _guarded(head: str) -> Iterator[None]:
    """Ray ends a driver that has lost its head after a minute, without a word; so we say what has happened."""
    over = threading.Event()

    def watch() -> None:
        missed = 0
        while missed < _MISSED and not over.wait(_LOOK_SECONDS):
            missed = 0 if _answers(head) else missed + 1
        if not over.is_set():
            sys.stderr.write(_GONE.format(head))
            sys.stderr.flush()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _answers(address: str) -> bool:
    try:
        _knock(address)
    except OSError:
        return False
    return True


def _knock(address: str) -> None:
    """Raises `OSError` where nobody listens at ``host:port``."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), 10).close()


@contextmanager
def _told(address: str) -> Iterator[None]:
    """What keeps us from joining a Ray that is said to be there is told in our words. Raises `PlanError`."""
    try:
        if re.fullmatch(r"[^/]+:\d+", address):  # Ray itself would try for minutes
            _knock(address)
        yield
    except (OSError, RuntimeError) as error:
        if not address:
            raise
        if "version mismatch" in str(error).lower():
            raise PlanError(
                f"the Ray at {address} is another one than here: {error}\n  start both with the same Ray and Python"
            ) from error
        raise PlanError(
            f"no Ray answers at {address}: {error}\n  start one there by `ray start --head`, or leave address out"
        ) from error


@contextmanager
def _hushed() -> Iterator[None]:
    """What C++ code writes to the standard error inside is not seen; Python's errors are raised as ever."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _quiet() -> None:
    """Ray's own words stay in its log files; read before Ray is imported."""
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray ends workers that idle for a second beyond one per CPU and starts them again for the next unit.
    os.environ.setdefault("RAY_kill_idle_workers_interval_ms", "0")


@contextmanager
def _folder() -> Iterator[Path]:
    """A short path (UNIX sockets allow 107 bytes); folders of drivers that were killed are removed."""
    root = Path(tempfile.gettempdir()) / f"penstock-ray-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    for old in root.iterdir():
        if not Path(f"/proc/{old.name}").exists():
            shutil.rmtree(old, ignore_errors=True)
    folder = root / str(os.getpid())
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def resources_of(what: str) -> Resources:
    """What the Ray that is up has; *what* is its name in texts."""
    import ray

    have = ray.cluster_resources()
    nodes = [int(node["Resources"].get("memory", 0)) for node in ray.nodes() if node["Alive"]]
    memory, largest = int(have.get("memory", 0)), max(nodes, default=0)
    return Resources(have.get("CPU", 0.0), have.get("GPU", 0.0), memory, f"Ray at {what}", False, largest)


def gpus_seen() -> float:
    """How many a Ray of our own would find."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return float(len([name for name in visible.split(",") if name not in ("", "-1")]))
    return float(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))
