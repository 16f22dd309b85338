"""Planes for a running solver without the plugin, by OpenFOAM's own ``timeVaryingMappedFixedValue``.

It lists the times below ``constant/boundaryData`` once, at the start, and reads each plane when the run comes to it.
So every time is declared at the start, and each plane is written when it is needed. It looks at two planes, before
and after the time that it is at, so the solver is given planes one step ahead.

``by_pipes``: each plane is a named pipe, and the solver waits in its read. For one rank, since each rank would read.
``by_gate``: planes are plain files, and after each step the solver asks, by a shell command of its function object
``systemCall``, whether it may go on. OpenFOAM gives root no such commands: then the solver runs as an ordinary user.
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import subprocess
import time as clock
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from penstock.errors import JobError
from penstock.formats.openfoam import pieces, read_case_mesh, read_dictionary, read_field, times, write_field
from penstock.solvers.openfoam.ahead import Plane, made_ahead
from penstock.solvers.openfoam.case import local_folder
from penstock.solvers.openfoam.exchange import State
from penstock.solvers.openfoam.process import Solver, configure, held, made, resumed, solver_command

if TYPE_CHECKING:
    from penstock.solvers.openfoam.live import Inlet, PlanesFrom

__all__ = ["by_gate", "by_pipes"]

_LOOK_SECONDS = 0.0005
_END_SECONDS = 60.0
_MAPPED = {"type": "timeVaryingMappedFixedValue", "offset": "(0 0 0)", "setAverage": "off", "mapMethod": "nearest"}
_GATE = """functions { penstockGate { type systemCall; libs (utilityFunctionObjects); master true;
    executeCalls ("echo > asked; read x < gate"); } }"""


@dataclass(frozen=True)
class _Schedule:
    """The times for which planes are declared: of the start, and of each step after it."""

    step: int
    times: tuple[float, ...]
    dt: float
    interval: int

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    def name(self, number: int) -> str:
        """All digits, so that OpenFOAM has nothing to interpolate."""
        return repr(self.times[number])

    def index(self, number: int) -> int:
        """The plane that holds at time *number*: step k+1 is computed with the plane of step k."""
        return (self.step + max(number - 1, 0)) // self.interval

    def state(self, number: int, shape: tuple[int, ...], last: bool = False) -> State:
        return State(self.step + number, self.times[number], self.dt, last, np.empty((0, *shape)))


def by_pipes(inlet: Inlet, planes_from: PlanesFrom, folder: Path) -> Iterator[State]:
    """Run the solver, or go on; each plane goes through a pipe of its own, and none lies on the disk."""
    with held(folder) as lock:
        schedule = _prepared(inlet, folder, "")
        data = folder / "constant" / "boundaryData" / inlet.patch
        for number in range(schedule.steps + 1):
            os.mkfifo(_declared(data, schedule.name(number)) / inlet.field)
        if not schedule.steps:
            return
        command = solver_command(folder, inlet.application, 1, (), ordinary=False)
        with (
            Solver(command, folder, {}, lock) as solver,
            _planes(inlet, schedule, planes_from, folder) as texts,
        ):
            text, shape = next(texts)
            pipes = [data / schedule.name(number) / inlet.field for number in range(schedule.steps + 1)]
            # The first step looks at the start only when its time, rounded, lies before the one that is declared.
            if _piped(pipes[:2], text, solver) == pipes[0]:
                _piped(pipes[1:2], text, solver)
            yield schedule.state(0, shape)
            for number, (text, shape) in enumerate(islice(texts, 1, None), 2):
                if _piped(pipes[number : number + 1], text, solver) is None:
                    break
                if (schedule.step + number - 1) % inlet.interval == 0:
                    yield schedule.state(number - 1, shape)
            _ended(solver)
            yield schedule.state(schedule.steps, shape, last=True)


def by_gate(inlet: Inlet, planes_from: PlanesFrom, folder: Path) -> Iterator[State]:
    """Run the solver, or go on; four planes lie on the disk at most."""
    with held(folder) as lock:
        schedule = _prepared(inlet, folder, _GATE)
        data = folder / "constant" / "boundaryData" / inlet.patch
        for number in range(schedule.steps + 1):
            _declared(data, schedule.name(number))
        if not schedule.steps:
            return
        with _planes(inlet, schedule, planes_from, folder) as texts, _Gate(folder) as gate:
            shape = _put(data, inlet.field, schedule, texts, range(min(3, schedule.steps + 1)))
            _given_away(folder)
            command = solver_command(folder, inlet.application, inlet.ranks, inlet.launcher, ordinary=True)
            own = {"HOME": str(folder), "TMPDIR": str(folder)} if os.getuid() == 0 else {}
            with Solver(command, folder, own, lock) as solver:
                yield schedule.state(0, shape)
                for number in range(1, schedule.steps + 1):
                    if not gate.asked(solver):
                        break
                    if number + 2 <= schedule.steps:
                        _put(data, inlet.field, schedule, texts, range(number + 2, number + 3))
                    if number >= 2:
                        (data / schedule.name(number - 2) / inlet.field).unlink(missing_ok=True)
                    gate.open()
                    if number < schedule.steps and (schedule.step + number) % inlet.interval == 0:
                        yield schedule.state(number, shape)
                _ended(solver)
                yield schedule.state(schedule.steps, shape, last=True)


# --- before the start ------------------------------------------------------------------------------------


def _prepared(inlet: Inlet, folder: Path, functions: str) -> _Schedule:
    template = local_folder(inlet.case).absolute()
    made(folder, template, inlet.ranks)
    resumed(folder)
    configure(folder, template, functions)
    schedule = _schedule(folder, inlet.interval)
    data = folder / "constant" / "boundaryData" / inlet.patch
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    mesh = read_case_mesh(folder)
    (data / "points").write_bytes(_ascii(mesh.face_centres[mesh.patch(inlet.patch).faces]))
    for case in pieces(folder) or (folder,):
        _map(case / times(case)[-1] / inlet.field, inlet.patch)
    return schedule


def _schedule(folder: Path, interval: int) -> _Schedule:
    controls = read_dictionary(folder / "system" / "controlDict")
    case = (pieces(folder) or (folder,))[0]
    latest = times(case)[-1]
    record = case / latest / "uniform" / "time"
    told = read_dictionary(record) if record.exists() else {}
    start, dt = float(str(told.get("value", latest)).strip('"')), float(str(controls["deltaT"]))
    steps = max(0, round((float(str(controls["endTime"])) - start) / dt))
    # Rounded as the solver does it, which adds up its steps.
    moments = tuple(accumulate([start, *[dt] * steps]))
    return _Schedule(int(str(told.get("index", 0))), moments, dt, interval)


def _map(path: Path, patch: str) -> None:
    """Have the patch take its values from ``boundaryData``."""
    field = read_field(path)
    there = field.boundary.get(patch)
    if there is None:
        raise JobError(f"there is no patch {patch} in {path}; there are {', '.join(field.boundary)}")
    if there.get("type") not in ("fixedValue", _MAPPED["type"]):
        raise JobError(f"patch {patch} of {path} is of type {there.get('type')}; only a fixedValue can be set")
    mapped = {**_MAPPED, "value": there["value"]}
    write_field(path, replace(field, boundary={**field.boundary, patch: mapped}))


def _declared(data: Path, name: str) -> Path:
    (data / name).mkdir()
    return data / name


def _given_away(folder: Path) -> None:
    """To the ordinary user as whom the solver runs when we are root."""
    if os.getuid():
        return
    subprocess.run(["chown", "-R", "65534:65534", str(folder)], check=True)
    reached = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "test", "-w", str(folder)], check=False
    )
    if reached.returncode:
        raise JobError(
            f"an ordinary user cannot come to {folder}, and OpenFOAM gives root no system calls, which transport gate "
            f"needs; take a folder that all may enter, or transport plugin"
        )


# --- planes ----------------------------------------------------------------------------------------------


@contextmanager
def _planes(
    inlet: Inlet, schedule: _Schedule, planes_from: PlanesFrom, folder: Path
) -> Iterator[Iterator[tuple[bytes, tuple[int, ...]]]]:
    """The text and the shape of one value for each declared time."""
    mesh = read_case_mesh(folder)
    faces = mesh.patch(inlet.patch).size
    first = schedule.index(0)

    def texts(planes: Iterator[Plane]) -> Iterator[tuple[bytes, tuple[int, ...]]]:
        index = -1
        for number in range(schedule.steps + 1):
            if schedule.index(number) != index:
                index, plane = schedule.index(number), next(planes)
                _require_plane(plane, faces, index, inlet.patch)
            yield _ascii(plane), plane.shape[1:]

    with made_ahead(planes_from(first), first, inlet.ahead) as planes:
        yield texts(planes)


def _require_plane(plane: Plane, faces: int, index: int, patch: str) -> None:
    if plane.shape not in ((faces,), (faces, 3)):
        raise JobError(
            f"plane {index} has shape {list(plane.shape)}, and patch {patch} needs [{faces}, 3] for vectors or "
            f"[{faces}] for scalars"
        )
    if not np.isfinite(plane).all():
        raise JobError(f"plane {index} holds NaN or infinity; the solver was not given it")


def _ascii(values: Plane) -> bytes:
    """As OpenFOAM 1912 reads it here: no header, ascii; 17 digits are all of a float64."""
    rows = (" ".join(f"{number:.17g}" for number in row) for row in values.reshape(len(values), -1))
    lines = (f"({row})" for row in rows) if values.ndim > 1 else rows
    return f"{len(values)}\n(\n{chr(10).join(lines)}\n)\n".encode()


def _put(
    data: Path,
    field: str,
    schedule: _Schedule,
    texts: Iterator[tuple[bytes, tuple[int, ...]]],
    numbers: range,
) -> tuple[int, ...]:
    shape: tuple[int, ...] = ()
    for number in numbers:
        text, shape = next(texts)
        path = data / schedule.name(number) / field
        temporary = path.with_name(f"{field}.new")
        temporary.write_bytes(text)
        temporary.replace(path)
    return shape


# --- pipes -----------------------------------------------------------------------------------------------


def _piped(paths: Sequence[Path], text: bytes, solver: Solver) -> Path | None:
    """Give *text* to the first reader of a named pipe, and say which one was read; None when the solver has ended."""
    while True:
        for path in paths:
            if (handle := _opened(path)) is not None:
                return path if _written(handle, text) else None
        if not solver.running():
            return None
        clock.sleep(_LOOK_SECONDS)


def _opened(path: Path) -> int | None:
    """For writing, when somebody reads."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    return None


def _written(handle: int, text: bytes) -> bool:
    os.set_blocking(handle, True)
    try:
        with os.fdopen(handle, "wb") as pipe:
            pipe.write(text)
    except BrokenPipeError:
        return False
    return True


class _Gate:
    """Where the solver asks after each step, and waits."""

    def __init__(self, folder: Path) -> None:
        self._asked, self._gate = folder / "asked", folder / "gate"
        for path in (self._asked, self._gate):
            path.unlink(missing_ok=True)
            os.mkfifo(path)
        # Both are held open at both ends. A gate that is opened for each answer may still be open when the solver comes
        # with its next question, which then reads the end of the file and goes on.
        self._questions, self._answers = (
            os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in (self._asked, self._gate)
        )

    def __enter__(self) -> _Gate:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._questions)
        os.close(self._answers)
        for path in (self._asked, self._gate):
            path.unlink()

    def asked(self, solver: Solver) -> bool:
        """Wait until the solver asks; False when it has ended."""
        while not select.select([self._questions], [], [], 0.1)[0]:
            if not solver.running():
                return False
        return bool(os.read(self._questions, 1))

    def open(self) -> None:
        """Let the solver go on, once."""
        os.write(self._answers, b"go\n")


def _ended(solver: Solver) -> None:
    if solver.wait(_END_SECONDS) != 0:
        raise JobError(solver.death("while planes were written"))
