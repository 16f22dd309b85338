"""Fields that flow into a running solver, one plane for every exchange, both ways.

::

    inlet = Inlet("case", patch="inlet", ranks=2)
    for state in inlet.feed(planes_from, Path("run")):
        print(state.time, state.values.mean(axis=0))

``planes_from(index)`` gives the planes from number *index* on; plane *i* holds for the steps after step
``i * interval``. It must give the same planes each time: then a run that was killed goes on from the last time that
was written, and its result is that of an undisturbed run, bit for bit, where the case writes in binary.

The solver waits while there is no plane, and the generator is asked for the next one only when fewer than *ahead*
wait. So neither runs away from the other.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import penstock
from penstock.core.storage import Uri
from penstock.errors import JobError, SchemaError
from penstock.flows.sweeping import Sweep
from penstock.formats.openfoam import Mesh, read_case_mesh, read_dictionary
from penstock.solvers.openfoam import staged
from penstock.solvers.openfoam.ahead import Plane, made_ahead
from penstock.solvers.openfoam.case import local_folder
from penstock.solvers.openfoam.exchange import SILENT_SECONDS, Gone, Link, Server, Silent, State
from penstock.solvers.openfoam.pace import Pace
from penstock.solvers.openfoam.process import (
    Solver,
    configure,
    controlled,
    ended,
    held,
    made,
    resumed,
    solver_command,
)
from penstock.solvers.openfoam.rows import Rows, needed, planes, swept

__all__ = ["Forcing", "Inlet", "PlanesFrom", "built_plugin"]

PlanesFrom: TypeAlias = Callable[[int], Iterator[Plane]]
"""The planes from a number on, the same at each call: ``float, "face component"``, or ``"cell component"``."""

Heard: TypeAlias = Callable[[Mapping[str, float]], None]

_END_SECONDS = 60.0
_TOLD_SECONDS = 0.5


@dataclass(frozen=True)
class Inlet:
    """Sets the values of a patch while the solver runs; the field there must be of type ``fixedValue``.

    Attributes:
        case: the template: a case whose own ``controlDict`` says how long, how fine and what is written.
        uri: the run's folder, in streams.
        column: what is fed, in streams: a plane for each row, ``"face component"``; with *sweep* a field, ``"2 y x"``.
        sweep: how fields become planes.
        patch: whose values are set.
        field: a vector or scalar field.
        application: the solver; empty takes the one of ``controlDict``.
        ranks: MPI ranks.
        interval: steps for which a plane holds.
        ahead: planes that wait for the solver at most; with 0 each is made when the state before it was yielded, so
            that it may depend on it.
        transport: ``plugin`` exchanges by the function object of ``plugins/openfoam``. Without the plugin ``fifo``
            (one rank) and ``gate`` (any number) send planes only, and what is yielded has no values.
        host: an address of this machine for solvers on other nodes, by TCP and a token; empty takes a UNIX socket.
        plugin: the built library; empty builds it, when that was not done before.
        launcher: what starts the ranks, such as ``["srun", "-n", "8"]``; empty takes ``mpirun``.
        silent_seconds: a solver that shows no sign of life for longer is given up; one that works shows one each
            second, however long its steps take.
    """

    case: Uri
    uri: Uri = ""
    column: str = "plane"
    sweep: Sweep | None = None
    patch: str = "inlet"
    field: str = "U"
    application: str = ""
    ranks: int = 1
    interval: int = 1
    ahead: int = 2
    transport: Literal["plugin", "fifo", "gate"] = "plugin"
    host: str = ""
    plugin: str = ""
    launcher: tuple[str, ...] = ()
    silent_seconds: float = SILENT_SECONDS

    ASIDE = ("ranks", "ahead", "transport", "host", "plugin", "launcher", "silent_seconds")

    def __post_init__(self) -> None:
        _checked(self)
        if self.transport == "fifo" and self.ranks > 1:
            raise ValueError(f"fifo feeds one rank, and ranks is {self.ranks}; use plugin or gate")

    def feed(self, planes_from: PlanesFrom, folder: Path) -> Iterator[State]:
        """Run the solver in *folder*, or go on there, and yield what it has after each exchange.

        Raises:
            JobError: the solver or the generator died, or a plane was refused; the text says which, and why.
        """
        if self.transport == "plugin":
            return _streamed(self, f"patch {self.patch};", planes_from, folder.absolute())
        how = staged.by_pipes if self.transport == "fifo" else staged.by_gate
        return how(self, planes_from, folder.absolute())

    def schema(self, given: pa.Schema) -> None:
        """See `penstock.core.nouns.Solver`."""
        checked_stream(self)
        needed(given, self.column, "inlet", field=self.sweep is not None)
        if self.sweep and self.field != "U":
            raise SchemaError(f"inlet: velocities are swept in, and field is '{self.field}'; leave out sweep")

    def done(self) -> bool:
        """Whether the run has come to its end."""
        return ended(local_folder(self.uri))

    def run(self, rows: Rows, heard: Heard) -> None:
        """See `penstock.core.nouns.Solver`."""
        given = planes(rows, self.column)
        if self.sweep:
            seconds = self.interval * controlled(local_folder(self.case), "deltaT")
            given = swept(rows, self.column, self.sweep, seconds, self.centres(local_folder(self.uri))[:, 1])
        followed(self, given, heard)

    def centres(self, folder: Path) -> npt.NDArray[np.float64]:
        """Where planes have their values: centres of the patch's faces, ``"face xyz"``. Makes the run's folder."""
        mesh = _mesh_of(self, folder)
        return mesh.face_centres[mesh.patch(self.patch).faces]


@dataclass(frozen=True)
class Forcing:
    """Adds an acceleration (m/s2) in every cell to the momentum equation while the solver runs.

    Attributes:
        case: the template, as of `Inlet`.
        uri: the run's folder, in streams.
        column: what is fed, in streams: a force for each row, ``"cell component"``, or ``"component y x"`` in the cells
            of one block, x fastest.
        field: the velocity, which is sent back.
        force: ``source`` adds it to the equation, in solvers with fvOptions (pimpleFoam, pisoFoam, simpleFoam);
            ``kick`` adds it times the time step to velocity and flux before each step, in any solver with a fixed
            time step (icoFoam). With Euler's method both are the same.
        application: the solver; empty takes the one of ``controlDict``.
        ranks: MPI ranks.
        interval: steps for which a plane holds.
        ahead: planes that wait for the solver at most; 0 as of `Inlet`.
        host: as of `Inlet`.
        plugin: as of `Inlet`.
        launcher: as of `Inlet`.
        silent_seconds: as of `Inlet`.
    """

    case: Uri
    uri: Uri = ""
    column: str = "force"
    field: str = "U"
    force: Literal["kick", "source"] = "source"
    application: str = ""
    ranks: int = 1
    interval: int = 1
    ahead: int = 2
    host: str = ""
    plugin: str = ""
    launcher: tuple[str, ...] = ()
    silent_seconds: float = SILENT_SECONDS

    ASIDE = ("ranks", "ahead", "host", "plugin", "launcher", "silent_seconds")

    def __post_init__(self) -> None:
        _checked(self)

    def feed(self, planes_from: PlanesFrom, folder: Path) -> Iterator[State]:
        """As `Inlet.feed`; planes are ``"cell component"``."""
        return _streamed(self, f"force {self.force};", planes_from, folder.absolute())

    def schema(self, given: pa.Schema) -> None:
        """See `penstock.core.nouns.Solver`."""
        checked_stream(self)
        needed(given, self.column, "forcing", field=False)

    def done(self) -> bool:
        """Whether the run has come to its end."""
        return ended(local_folder(self.uri))

    def run(self, rows: Rows, heard: Heard) -> None:
        """See `penstock.core.nouns.Solver`."""
        followed(self, planes(rows, self.column), heard)

    def centres(self, folder: Path) -> npt.NDArray[np.float64]:
        """Where planes have their values: centres of the cells, ``"cell xyz"``. Makes the run's folder."""
        return _mesh_of(self, folder).cell_centres


def checked_stream(feeder: Inlet | Forcing) -> None:
    """What a stream needs and `feed` does not. Raises `SchemaError`."""
    if not feeder.uri:
        raise SchemaError("the solver of a stream needs 'uri', the folder where it runs")
    if not (local_folder(feeder.case) / "system" / "controlDict").exists():
        raise SchemaError(f"{feeder.case} is no OpenFOAM case: system/controlDict not found")


def followed(feeder: Inlet | Forcing, given: PlanesFrom, heard: Heard) -> None:
    """Run *feeder* to its end and tell how it goes, not too often."""
    end, since, pace = controlled(local_folder(feeder.case), "endTime"), 0.0, Pace()
    for state in feeder.feed(pace.timed(given), local_folder(feeder.uri)):
        pace.add(state)
        if state.last or time.monotonic() - since > _TOLD_SECONDS:
            since = time.monotonic()
            heard({"solver_time": state.time, "end_time": end, **pace.facts()})


def _checked(feeder: Inlet | Forcing) -> None:
    if feeder.ranks < 1 or feeder.interval < 1 or feeder.ahead < 0:
        raise ValueError("ranks and interval must be 1 or more, ahead 0 or more")
    if not feeder.silent_seconds > 0:
        raise ValueError(f"silent_seconds is {feeder.silent_seconds:g}; it must be more than 0")
    for uri in (feeder.case, feeder.uri):
        local_folder(uri)


def _mesh_of(feeder: Inlet | Forcing, folder: Path) -> Mesh:
    with held(folder.absolute()):
        made(folder.absolute(), local_folder(feeder.case).absolute(), feeder.ranks)
    return read_case_mesh(folder)


# --- the stream ------------------------------------------------------------------------------------------


def _streamed(feeder: Inlet | Forcing, target: str, planes_from: PlanesFrom, folder: Path) -> Iterator[State]:
    template = local_folder(feeder.case).absolute()
    library = Path(feeder.plugin or built_plugin()).absolute()
    with held(folder) as lock, Server(feeder.host) as server:
        made(folder, template, feeder.ranks)
        went_on = resumed(folder)
        configure(folder, template, _function(feeder, target, server.address, library))
        if isinstance(feeder, Forcing) and feeder.force == "source":
            _take_force(feeder, folder, template, library)
        command = solver_command(folder, feeder.application, feeder.ranks, feeder.launcher, ordinary=False)
        with (
            _token_file(folder, server.token) as token,
            Solver(command, folder, {"PENSTOCK_TOKEN_FILE": str(token)}, lock) as solver,
        ):
            link = server.accept(solver.running, feeder.silent_seconds)
            if link is not None:
                yield from _served(feeder, link, solver, planes_from)
            elif not (went_on and solver.wait() == 0):
                refused = f" ({server.refused})" if server.refused else ""
                raise JobError(solver.death(f"before it came to the stream{refused}"))


def _served(feeder: Inlet | Forcing, link: Link, solver: Solver, planes_from: PlanesFrom) -> Iterator[State]:
    hello = link.hello
    assert hello is not None
    first = hello.step // hello.interval
    where = "before its first step"
    try:
        with made_ahead(planes_from(first), first, feeder.ahead) as planes:
            for state in _turns(link, planes, feeder.ahead > 0):
                where = f"after step {state.step}, time {state.time:g}"
                yield state
        if solver.wait(_END_SECONDS) != 0:
            raise JobError(solver.death("after the stream's end"))
    except Gone:
        raise JobError(solver.death(where)) from None
    except Silent as error:
        raise JobError(f"the solver fell silent {where}: {error} Its log is {solver.log}") from None
    except GeneratorExit:
        link.fail("the generator's reader went away")
        solver.wait()
        raise
    except JobError as error:
        link.fail(str(error))
        solver.wait()
        raise
    finally:
        link.close()


def _turns(link: Link, planes: Iterator[Plane], early: bool) -> Iterator[State]:
    """Answer *early*, so that the solver works while the state is looked at, or after it was looked at."""
    waited = 0.0
    while (received := link.receive()) is not None:
        began, state = time.monotonic(), replace(received, waited_seconds=waited)
        if not early or state.last:
            yield state
        if not state.last:
            link.send(state.step, next(planes))
            waited = time.monotonic() - began
            if early:
                yield state


def _function(feeder: Inlet | Forcing, target: str, address: str, library: Path) -> str:
    body = f'field {feeder.field}; {target} interval {feeder.interval}; address "{address}";'
    return f'functions {{ penstock {{ type penstock; libs ("{library}"); {body} }} }}'


def _take_force(feeder: Forcing, folder: Path, template: Path, library: Path) -> None:
    """Have the equation take the force, unless the case says itself how."""
    controls = folder / "system" / "controlDict"
    others = str(read_dictionary(template / "system" / "controlDict").get("libs", "()")).strip("() ")
    with controls.open("a") as file:
        file.write(f'libs ("{library}" {others});\n')
    if not any((folder / place / "fvOptions").exists() for place in ("system", "constant")):
        (folder / "system" / "fvOptions").write_text(
            "FoamFile { version 2.0; format ascii; class dictionary; object fvOptions; }\n"
            f"penstock {{ type penstockForce; active yes; fields ({feeder.field}); }}\n"
        )


@contextmanager
def _token_file(folder: Path, token: str) -> Iterator[Path]:
    """In the run's folder, which all nodes see; nobody else can read it."""
    path = folder / f"token.{secrets.token_hex(4)}"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token)
        yield path
    finally:
        path.unlink()


def built_plugin() -> str:
    """The path of the plugin's library, which is built by ``plugins/openfoam/build`` when it is not there yet.

    Raises:
        JobError: it cannot be built here.
    """
    script = Path(penstock.__file__).parents[2] / "plugins" / "openfoam" / "build"
    if not script.exists():
        raise JobError(
            "the plugin for OpenFOAM is not part of the wheel (it is GPL, as OpenFOAM is): run plugins/openfoam/build "
            "of Penstock's source tree and give the path that it prints as 'plugin'; or use transport fifo or gate"
        )
    done = subprocess.run([str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise JobError(f"the plugin for OpenFOAM cannot be built:\n{done.stderr[-2000:]}")
    return done.stdout.strip()
