"""Ray nodes that have addresses of their own on one machine: each in a network namespace, all at one bridge.

A node is killed by killing all processes in its namespace; its cable is pulled by setting its link down.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PORT, REDIS_PORT = 6379, 6400
RAY = str(Path(sys.executable).with_name("ray"))
# A dead node is noticed within some seconds; a user's cluster takes Ray's half minute.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",  # only a silent one takes as long; where Ray was killed the kernel answers
    "RAY_health_check_failure_threshold": "3",
    "RAY_kill_idle_workers_interval_ms": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "40",  # but see Machines.environment
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
}


@dataclass(frozen=True)
class Machines:
    """Node 0 is the head, without cores for work; with *keeper* its state is kept in a Redis beside it."""

    base: Path
    count: int
    keeper: bool = False
    number: int = field(default_factory=itertools.count().__next__)

    @property
    def address(self) -> str:
        return f"{self.ip(0)}:{PORT}"

    def ip(self, node: int) -> str:
        return f"10.77.{(os.getpid() + self.number) % 250}.{node + 1}"

    def space(self, node: int) -> str:
        return f"pen{self.own}-{node}"

    def cable(self, node: int) -> str:
        return f"pv{self.own}-{node}"

    @property
    def own(self) -> str:
        """No interface is called so, nor one that the kernel has not quite removed yet."""
        return f"{os.getpid()}-{self.number}"

    def plug_in(self) -> None:
        bridge = f"pb{self.own}"
        ip("link", "add", bridge, "type", "bridge")
        ip("link", "set", bridge, "up")
        for node in range(self.count):
            space, cable = self.space(node), self.cable(node)
            ip("netns", "add", space)
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", cable, "master", bridge, "up")
            ip("-n", space, "addr", "add", f"{self.ip(node)}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")

    def unplug(self) -> None:
        for node in range(self.count):
            kill(self.every_process(node))
            ip("netns", "del", self.space(node), check=False)
            ip("link", "del", self.cable(node), check=False)  # the namespace lives until its last process is gone
        ip("link", "del", f"pb{self.own}", check=False)

    def start(self, node: int, cpus: int = 1) -> None:
        """Give the machine its Ray; returns when that is up."""
        role = ["--head", f"--port={PORT}", f"--temp-dir={self.base}", "--include-dashboard=false"]
        role = [*role, "--num-cpus=0"] if node == 0 else [f"--address={self.address}", f"--num-cpus={cpus}"]
        words = [RAY, "start", f"--node-ip-address={self.ip(node)}", "--object-store-memory=100000000", *role]
        (self.base / "ray_current_cluster").unlink(missing_ok=True)  # a machine that starts has none
        env = self.environment() | ({"RAY_REDIS_ADDRESS": f"{self.ip(0)}:{REDIS_PORT}"} if self.keeper else {})
        done = subprocess.run(self.inside(node, words), env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def environment(self) -> dict[str, str]:
        """A head that comes back is waited for, however long a busy machine takes to start it."""
        return environment() | ({"RAY_gcs_rpc_server_reconnect_timeout_s": "240"} if self.keeper else {})

    def inside(self, node: int, words: list[str]) -> list[str]:
        return ["ip", "netns", "exec", self.space(node), *words]

    def start_keeper(self) -> None:
        """A Redis that outlives the head's Ray."""
        words = ["redis-server", "--bind", self.ip(0), "--port", str(REDIS_PORT), "--protected-mode", "no"]
        words += ["--dir", str(self.base), "--save", "", "--daemonize", "yes"]
        subprocess.run(self.inside(0, words), check=True, capture_output=True)

    def driver(self, program: Path, *words: str, node: int = 0) -> subprocess.Popen[str]:
        """A Python program, which is told Ray's address first."""
        command = self.inside(node, [sys.executable, str(program), self.address, *words])
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment(), stdout=pipe, stderr=pipe, text=True)

    def processes(self, node: int, having: str = "") -> list[int]:
        """Those of Ray on *node* whose command has the word *having*; drivers are none of Ray's."""
        found = []
        for pid in self.every_process(node):
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                ours = "ray::" in command or "/ray/" in command
                if ours and having in command:
                    found.append(pid)
        return found

    def every_process(self, node: int) -> list[int]:
        pids = subprocess.run(["ip", "netns", "pids", self.space(node)], capture_output=True, text=True, check=False)
        return [int(pid) for pid in pids.stdout.split()]

    def kill(self, node: int) -> int:
        """All of Ray there; how many processes there were."""
        return kill(self.processes(node))

    def pull(self, node: int) -> None:
        ip("-n", self.space(node), "link", "set", "eth0", "down")

    def put_back(self, node: int) -> None:
        ip("-n", self.space(node), "link", "set", "eth0", "up")


def kill(pids: list[int]) -> int:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


def environment() -> dict[str, str]:
    return {**os.environ, **ENVIRONMENT}


def wait_until(seen: Callable[[], bool], what: str, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.1)


@contextmanager
def machines(base: Path, count: int, keeper: bool = False) -> Iterator[Machines]:
    """*count* of them with Ray up, which end with the block."""
    found = Machines(base, count, keeper)
    try:
        found.plug_in()
        if keeper:
            found.start_keeper()
        for node in range(count):
            found.start(node)
        yield found
    finally:
        found.unplug()
