"""Docker and Podman on a machine that is a container itself; also for benchmarks/places.py."""

import json
import os
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

LEAST = ["nofile=1024:1024", "nproc=1024:1024"]
"""What such a machine may give to its own containers."""


@contextmanager
def ready(name):
    """The variables by which ``docker`` or ``podman`` can be used inside; of Docker's daemon one of our own."""
    begun = {"docker": _daemon, "podman": _settings}[name]
    with (
        tempfile.TemporaryDirectory(prefix="pe", dir="/tmp", ignore_cleanup_errors=True) as folder,
        begun(Path(folder)) as variables,
    ):
        yield variables


@contextmanager
def _daemon(folder):
    """Docker's, on a socket below *folder*; without a bridge, since its containers have no network."""
    host = f"unix://{folder}/socket"
    words = ["dockerd", f"--host={host}", f"--pidfile={folder}/pid", "--storage-driver=vfs", "--bridge=none"]
    words += [f"--{what}-root={folder / what}" for what in ("data", "exec")] + ["--iptables=false", "--ip6tables=false"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*words, f"--default-ulimit={LEAST[0]}"], stdout=log, stderr=log)
    variables = {"DOCKER_HOST": host, "PATH": f"/usr/bin:{os.environ['PATH']}"}  # the client of the daemon's package
    try:
        end = time.monotonic() + 120
        asked = {"env": {**os.environ, **variables}, "capture_output": True, "check": False}
        while subprocess.run(["docker", "info"], **asked).returncode:
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            assert time.monotonic() < end, "dockerd does not answer"
            time.sleep(0.2)
        yield variables
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def _settings(folder):
    """Podman's: Debian's crun knows no machine that has both kinds of control groups, runc does."""
    engine = '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\n'
    (folder / "containers.conf").write_text(f"{engine}[containers]\ndefault_ulimits = {json.dumps(LEAST)}\n")
    yield {"CONTAINERS_CONF": str(folder / "containers.conf")}
