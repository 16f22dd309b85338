"""A step in a container: the stage's class is known here, and what it needs lies in an image.

``penstock stage NAME --config JSON`` runs inside and is fed through a pipe; see `penstock.core.wire` for what passes.
Any engine will do that starts a container whose standard input and output are ours. A container that ends in the
middle of a batch is started again and given that batch once more, since stages have no effect but their answer.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from penstock.core import plugins, wire
from penstock.core.nouns import Batch, Place, Step, Transform
from penstock.errors import PlanError, RunError, UnitError

__all__ = ["ENGINES", "chosen", "opened", "words_for"]

_TRIES = 3
_PATIENCE_SECONDS = 20.0
_OURS = re.compile(r"^(penstock-(\d+)-[0-9a-f]{12})\s*$", re.MULTILINE)
_TAIL_BYTES = 2000


@dataclass(frozen=True)
class Engine:
    """What starts containers.

    Attributes:
        command: the words that start one with *words* as its program's, by its place and a name for it.
        before, after: the words that make a container and remove it, where the engine does not by itself.
        names: the words that list all containers by name, so that those of processes that were killed are removed.
        asked: the words that succeed where it can be used; its program may be there without its daemon.
    """

    command: Callable[[Place, str, Sequence[str]], list[str]]
    before: Callable[[Place, str], list[str]] | None = None
    after: Callable[[str], list[str]] | None = None
    names: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()


def _run(program: str) -> Callable[[Place, str, Sequence[str]], list[str]]:
    """Of docker and podman (https://docs.docker.com/reference/cli/docker/container/run/)."""

    def command(place: Place, name: str, words: Sequence[str]) -> list[str]:
        limits = [f"--cpus={place.cpus:g}"] if place.cpus else []
        limits += [f"--memory={place.memory_bytes}"] if place.memory_bytes else []
        limits += ["--gpus=all" if program == "docker" else "--device=nvidia.com/gpu=all"] if place.gpus else []
        shut = [] if place.network else ["--network=none"]
        safe = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        mounts = [f"--volume={mount}:ro" for mount in _mounts(place)]
        start = [program, "run", "--rm", "--interactive", f"--name={name}"]
        return [*start, *shut, *safe, *limits, *mounts, place.image, *words]

    return command


def _apptainer(place: Place, _: str, words: Sequence[str]) -> list[str]:
    """See https://apptainer.org/docs/user/latest/cli/apptainer_run.html; it shares the network with its user."""
    image = place.image if "://" in place.image or place.image.endswith(".sif") else f"docker://{place.image}"
    gpu = ["--nv"] if place.gpus else []
    mounts = [f"--bind={mount}:ro" for mount in _mounts(place)]
    return ["apptainer", "run", "--containall", *gpu, *mounts, image, *words]


def _buildah(place: Place, name: str, words: Sequence[str]) -> list[str]:
    """Where no engine may make namespaces of its own: a changed root (see buildah-run(1)); it shares the network."""
    mounts = [f"--volume={mount}:ro" for mount in _mounts(place)]
    return ["buildah", "run", "--isolation=chroot", *mounts, name, "--", "penstock", *words]


def _process(_: Place, __: str, words: Sequence[str]) -> list[str]:
    """No container at all: a process of this very Python, for tests and where no engine is."""
    return [sys.executable, "-m", "penstock", *words]


ENGINES: Mapping[str, Engine] = {
    "docker": Engine(_run("docker"), asked=("docker", "info")),
    "podman": Engine(_run("podman"), asked=("podman", "info")),
    "apptainer": Engine(_apptainer, asked=("apptainer", "version")),
    "buildah": Engine(
        _buildah,
        lambda place, name: ["buildah", "from", f"--name={name}", "--pull=false", place.image],
        lambda name: ["buildah", "rm", name],
        ("buildah", "containers", "--noheading", "--format={{.ContainerName}}"),
        ("buildah", "info"),
    ),
    "process": Engine(_process),
}


def chosen() -> tuple[str, Engine]:
    """The engine that ``PENSTOCK_ENGINE`` names, else the first that answers.

    Raises:
        PlanError: there is none.
    """
    name = os.environ.get("PENSTOCK_ENGINE", "")
    if name and name not in ENGINES:
        raise PlanError(f"PENSTOCK_ENGINE is '{name}'; one of {', '.join(ENGINES)} was needed")
    found = name or next((one for one, engine in ENGINES.items() if engine.asked and _answers(engine.asked)), "")
    if not found:
        raise PlanError(
            "a step has place.kind = 'container', and neither docker, podman, apptainer nor buildah is on PATH and "
            "answers; install one, start its daemon, or set PENSTOCK_ENGINE=process to run the stage as a plain "
            "process here"
        )
    return found, ENGINES[found]


def _answers(words: Sequence[str]) -> bool:
    if not shutil.which(words[0]):
        return False
    try:
        return subprocess.run(words, capture_output=True, timeout=_PATIENCE_SECONDS, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def words_for(step: Step) -> list[str]:
    """What is said to the program in the image: ``stage NAME --config JSON``."""
    config = json.dumps(plugins.describe(step.stage), sort_keys=True)
    return ["stage", plugins.called("stages", step.stage), "--config", config]


@contextmanager
def opened(step: Step) -> Iterator[Transform]:
    """The live function of *step*, in a container that is up inside.

    Raises:
        PlanError: there is no engine, or no image is named.
        RunError: the container cannot be started, or the stage cannot be opened in it.
    """
    name, engine = chosen()
    if not step.place.image and name != "process":
        raise PlanError(
            f"step {step.name} has place.kind = 'container' and no image; say which: image = 'penstock:0.1'"
        )
    with _Container(step, engine) as container:
        yield container


def _mounts(place: Place) -> list[str]:
    """``HERE:THERE``; a folder that is seen under its own name needs no THERE."""
    return [mount if ":" in mount else f"{mount}:{mount}" for mount in place.mounts]


class _Container:
    """One container, started when a batch comes and again when it has ended; a batch at a time."""

    def __init__(self, step: Step, engine: Engine) -> None:
        self.step, self.engine, self._words = step, engine, words_for(step)
        self.told = f"in a container of {step.place.image}" if step.place.image else "in a process of its own"
        self._name = f"penstock-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._turn = threading.Lock()

    def __enter__(self) -> _Container:
        if self.engine.before is not None:
            self._sweep()
            self._check(self.engine.before(self.step.place, self._name))
        try:
            self(wire.GREETING)
        except Exception as error:  # whatever it says, the container must go
            image = f" of {self.step.place.image}" if self.step.place.image else ""
            words = f"step {self.step.name} cannot be opened in a container{image}: {error}"
            self.__exit__()
            raise RunError(words) from error
        return self

    def _sweep(self) -> None:
        """Remove the containers of processes that are no more."""
        listed = subprocess.run(self.engine.names, capture_output=True, text=True, check=False).stdout
        for name, pid in _OURS.findall(listed):
            if self.engine.after is not None and not Path(f"/proc/{pid}").exists():
                subprocess.run(self.engine.after(name), capture_output=True, check=False)

    def __exit__(self, *_: object) -> None:
        self._end()
        if self.engine.after is not None:
            self._check(self.engine.after(self._name))
        self._errors.close()

    def __call__(self, batch: Batch) -> Batch:
        """Carry *batch* through."""
        with self._turn:
            for _ in range(_TRIES):
                try:
                    return self._carried(batch)
                except (EOFError, BrokenPipeError):
                    self._end()
        over = "nothing" if batch is wire.GREETING else "one batch"
        raise UnitError(
            f"the container of {self.step.place.image or self.step.name} ended {_TRIES} times over {over}; if memory "
            f"runs out, lower unit_bytes or raise memory_bytes. Its last words:\n{self._last_words()}"
        )

    def _carried(self, batch: Batch) -> Batch:
        process = self._process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(wire.asked(batch))
        process.stdin.flush()
        return wire.heard(process.stdout)  # type: ignore[arg-type]

    def _started(self) -> subprocess.Popen[bytes]:
        command = self.engine.command(self.step.place, self._name, self._words)
        pipe: Any = subprocess.PIPE
        try:
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._errors)
        except OSError as error:
            raise UnitError(f"the container cannot be started by '{command[0]}': {error}") from error

    def _end(self) -> None:
        """Close its input, which ends it; what does not end by that is killed."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # it has ended already
                    continue
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _check(self, command: list[str]) -> None:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=self._errors, check=False)
        if done.returncode:
            raise UnitError(f"'{' '.join(command)}' ended with status {done.returncode}:\n{self._last_words()}")

    def _last_words(self) -> str:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _TAIL_BYTES))
        return self._errors.read().decode(errors="replace").strip() or "(none)"
