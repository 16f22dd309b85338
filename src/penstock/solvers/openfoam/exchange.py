"""The stream between a generator and a running OpenFOAM solver: what passes over the socket.

The solver's end is the function object in ``plugins/openfoam``. A frame is a head of 16 bytes and a payload, all
little-endian; the head is the same in every version, so that two versions can tell each other apart::

    head      char[4] "PSTK", uint16 version, uint16 kind, int64 bytes of the payload
    HELLO     solver: int64 step, float64 time, dt, end time, int32 interval, ranks, components, target, int64 count;
              token, field and patch, each uint16 bytes and UTF-8; centres, float64 "count 3"
    WELCOME   generator: nothing
    STATE     solver: int64 step, float64 time, dt, int64 whether it is the last; values, float64 "count components"
    PLANE     generator: int64 step; values, float64 "count components"
    FAILURE   either: why it gives up, UTF-8
    END       solver: nothing; the run has come to its end
    ALIVE     solver: nothing; once a second while it works on its steps, since version 2

After HELLO and WELCOME the solver sends the STATE after step k and waits for the PLANE of step k, which holds until
the next exchange. The STATE of the last step is not answered. Values are in the order of the undecomposed mesh,
however many ranks the solver has.

A slow solver is waited for, since it shows that it lives. One that shows nothing, stopped or on a lost node, is given
up after a while; see `Link`.
"""

from __future__ import annotations

import errno
import hmac
import math
import secrets
import select
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.errors import JobError

__all__ = [
    "HEAD",
    "HELLO",
    "SILENT_SECONDS",
    "STATE",
    "STEP",
    "VERSION",
    "Gone",
    "Hello",
    "Kind",
    "Link",
    "Server",
    "Silent",
    "State",
    "fill",
    "kept_alive",
]

VERSION = 2
MAGIC = b"PSTK"
HEAD = struct.Struct("<4sHHq")
HELLO = struct.Struct("<qdddiiiiq")
STATE = struct.Struct("<qddq")
STEP = struct.Struct("<q")
_SIZE = struct.Struct("<H")

SILENT_SECONDS = 60.0
"""For so long a solver may show no sign of life; it shows one each second."""

_HELLO_SECONDS = 30.0
_LISTEN_SECONDS = 0.1
_FAREWELL_SECONDS = 1.0
_LOOK_SECONDS = 0.5
_LOST = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)
_KEEP_ALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 4}
"""Seconds, seconds and probes: a node that is lost is known after half a minute. The plugin's `peer.C` has the same."""

_LARGEST_TEXT_BYTES = 1 << 16

Values = npt.NDArray[np.float64]
Receive = Callable[[memoryview], int]


class Kind(IntEnum):
    """Of a frame."""

    HELLO = 1
    WELCOME = 2
    STATE = 3
    PLANE = 4
    FAILURE = 5
    END = 6
    ALIVE = 7


class Gone(JobError):  # noqa: N818  (nothing was said that would be an error)
    """The solver's end of the stream was closed without a word."""


class Silent(JobError):  # noqa: N818
    """The solver shows no sign of life, though its end of the stream is open."""


@dataclass(frozen=True, eq=False)
class Hello:
    """What a solver says of itself.

    Attributes:
        step: the time index at which it stands.
        time: in s, at that step.
        dt: its time step in s.
        end_time: when it will end, in s.
        interval: steps from one exchange to the next.
        ranks: MPI ranks.
        components: 1 for scalars, 3 for vectors.
        target: where planes go: ``patch``, or ``force`` for a body force in all cells.
        field: the field's name.
        patch: the patch's name; empty for a force.
        centres: of the faces or cells, ``"count xyz"``, in the order of all planes.
    """

    step: int
    time: float
    dt: float
    end_time: float
    interval: int
    ranks: int
    components: int
    target: str
    field: str
    patch: str
    centres: Values

    @property
    def count(self) -> int:
        """Faces or cells."""
        return len(self.centres)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of every plane: ``(count, 3)``, or ``(count,)`` for scalars."""
        return (self.count,) if self.components == 1 else (self.count, self.components)


@dataclass(frozen=True, eq=False)
class State:
    """What the solver has after a step.

    Attributes:
        step: steps since time 0.
        time: in s.
        dt: the step's length in s.
        last: the run ends with it.
        values: of the field in the cells next to the patch, or in all cells: ``"count components"``.
        waited_seconds: for which it had waited for the plane of these steps; NaN where nobody sees that.
    """

    step: int
    time: float
    dt: float
    last: bool
    values: Values
    waited_seconds: float = math.nan


def fill(receive: Receive, into: memoryview) -> None:
    """Fill *into*, however the bytes come cut. *receive* is a socket's ``recv_into``.

    Raises:
        Gone: the stream ended before.
    """
    while into.nbytes:
        try:
            count = receive(into)
        except ConnectionError:
            count = 0
        if not count:
            raise Gone("the solver closed the stream without a word")
        into = into[count:]


def kept_alive(sock: socket.socket) -> None:
    """Have the kernel see within half a minute that the node at the other end of a TCP connection is lost."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Link:
    """A connected solver that has said hello; one thread may use it.

    Args:
        sock: connected.
        look: whether the solver still runs. While nothing comes it is asked, since a connection can outlive it: one to
            another node, or one that a process of its own holds.
        silent_seconds: a solver that shows no sign of life for longer is given up.
    """

    def __init__(
        self, sock: socket.socket, look: Callable[[], bool] = lambda: True, silent_seconds: float = SILENT_SECONDS
    ) -> None:
        self._sock, self._look, self._silent_seconds = sock, look, silent_seconds
        self.hello: Hello | None = None
        self._be_patient(silent_seconds)

    def greet(self, token: str) -> Hello:
        """Receive the solver's hello and look at its token before anything else that it says.

        Raises:
            JobError: the token is wrong, the version is another, or what speaks is no solver.
        """
        patience = self._silent_seconds
        self._be_patient(_HELLO_SECONDS)
        try:
            self.hello = self._hello(token)
        except Silent:
            raise JobError(f"who connected said no hello in {_HELLO_SECONDS:g} s") from None
        self._be_patient(patience)
        self._send(HEAD.pack(MAGIC, VERSION, Kind.WELCOME, 0))
        return self.hello

    def receive(self) -> State | None:
        """The solver's next state; None at the end of its run.

        Raises:
            Gone: the solver is gone.
            Silent: it shows no sign of life.
            JobError: it failed, or its values are NaN.
        """
        assert self.hello is not None
        kind, size = self._frame()
        while kind == Kind.ALIVE:
            kind, size = self._frame()
        if kind == Kind.END:
            return None
        if kind != Kind.STATE:
            self._refuse(f"the solver sent frame {kind} where a state was due")
        values = np.empty(self.hello.shape)
        if size != STATE.size + values.nbytes:
            self._refuse(f"the solver sent {size - STATE.size} bytes of values, and {values.nbytes} were due")
        step, time, dt, last = STATE.unpack(self._exactly(STATE.size))
        fill(self._receive, values.data.cast("B"))
        if not np.isfinite(values).all():
            self._refuse(
                f"the solver's {self.hello.field} is {_bad_of(values)} at step {step}, time {time:g}: it has diverged; "
                f"use a smaller time step, or look at the planes before"
            )
        return State(step, time, dt, bool(last), values)

    def send(self, step: int, plane: npt.NDArray[Any]) -> None:
        """Answer the state of *step*.

        Raises:
            JobError: the plane is of the wrong size or holds NaN; the solver is told.
            Gone: the solver is gone.
            Silent: it takes nothing.
        """
        assert self.hello is not None
        values = np.ascontiguousarray(plane, dtype="<f8")
        if values.shape != self.hello.shape:
            place = f"patch {self.hello.patch}" if self.hello.patch else "the mesh"
            self._refuse(
                f"the plane for step {step} has shape {list(values.shape)}, and {place} needs "
                f"{list(self.hello.shape)} for {self.hello.field}"
            )
        if not np.isfinite(values).all():
            self._refuse(f"the plane for step {step} is {_bad_of(values)}; the solver was not given it")
        head = HEAD.pack(MAGIC, VERSION, Kind.PLANE, STEP.size + values.nbytes) + STEP.pack(step)
        self._send(head, values.data.cast("B"))

    def fail(self, why: str) -> None:
        """Tell the solver to give up, if it still listens."""
        text = why.encode()
        self._be_patient(_FAREWELL_SECONDS)
        try:
            self._send(HEAD.pack(MAGIC, VERSION, Kind.FAILURE, len(text)) + text)
        except (Gone, Silent, OSError):
            return

    def close(self) -> None:
        """End the stream; a solver that still runs ends with an error at its next exchange."""
        self._sock.close()

    def _hello(self, token: str) -> Hello:
        kind, size = self._frame()
        if kind != Kind.HELLO:
            self._refuse(f"who connected sent frame {kind} where a hello was due")
        step, time, dt, end, interval, ranks, components, target, count = HELLO.unpack(self._exactly(HELLO.size))
        texts = [self._text() for _ in range(3)]
        if not hmac.compare_digest(texts[0].encode(), token.encode()):
            self._refuse(
                "the solver's token is not the generator's; give the solver PENSTOCK_TOKEN_FILE or PENSTOCK_TOKEN"
            )
        texts_bytes = sum(_SIZE.size + len(text.encode()) for text in texts)
        if count < 1 or components not in {1, 3} or size != HELLO.size + texts_bytes + 24 * count:
            self._refuse("the solver's hello is damaged")
        centres = np.empty((count, 3))
        fill(self._receive, centres.data.cast("B"))
        aim = "patch" if target == 1 else "force"
        return Hello(step, time, dt, end, interval, ranks, components, aim, texts[1], texts[2], centres)

    def _frame(self) -> tuple[int, int]:
        magic, version, kind, size = HEAD.unpack(self._exactly(HEAD.size))
        if magic != MAGIC:
            raise JobError(f"who connected is no solver of Penstock: it sent {magic!r} where {MAGIC!r} was due")
        if kind == Kind.FAILURE:
            raise JobError(f"the solver gave up: {self._exactly(min(size, _LARGEST_TEXT_BYTES)).decode()}")
        if version != VERSION:
            self._refuse(
                f"the solver's plugin speaks version {version} of the protocol, and Penstock version {VERSION}; "
                f"build plugins/openfoam again"
            )
        return kind, size

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        fill(self._receive, memoryview(data))
        return data

    def _text(self) -> str:
        (size,) = _SIZE.unpack(self._exactly(_SIZE.size))
        return self._exactly(size).decode("utf-8", "replace")

    def _refuse(self, why: str) -> None:
        self.fail(why)
        raise JobError(why)

    def _send(self, *parts: bytes | memoryview) -> None:
        views = [memoryview(part) for part in parts]
        try:
            while views:
                sent = self._patiently(self._sock.sendmsg, views)
                while views and sent >= views[0].nbytes:
                    sent -= views.pop(0).nbytes
                if sent:
                    views[0] = views[0][sent:]
        except ConnectionError:
            raise Gone("the solver closed the stream without a word") from None

    def _be_patient(self, seconds: float) -> None:
        self._silent_seconds, self._pause = seconds, min(_LOOK_SECONDS, seconds)
        self._sock.settimeout(self._pause)

    def _receive(self, into: memoryview) -> int:
        return self._patiently(self._sock.recv_into, into)

    def _patiently(self, action: Callable[[Any], int], what: Any) -> int:
        """What *action* gives, for which one waits as long as the solver lives.

        Looks are counted, not seconds, so that the time for which we ourselves were stopped is not the solver's.
        """
        silent = 0.0
        while True:
            try:
                return action(what)
            except OSError as error:
                if error.errno in _LOST:
                    raise Silent("its node does not answer any more") from None
                if not isinstance(error, TimeoutError):
                    raise
            silent += self._pause
            if not self._look():
                raise Gone("the solver has ended, and its stream is open still")
            if silent >= self._silent_seconds:
                raise Silent(f"no sign of life for {self._silent_seconds:g} s; is it stopped, or its node lost?")


def _bad_of(values: Values) -> str:
    bad = ~np.isfinite(values)
    return f"NaN or infinite in {bad.sum()} of {bad.size} numbers, the first at {np.argwhere(bad)[0].tolist()}"


class Server:
    """Where the generator waits for its solver: a UNIX socket, or TCP when *host* names an address of this machine.

    Attributes:
        address: what the plugin's dictionary needs: ``unix:/path`` or ``tcp:host:port``.
        token: what the solver must show.
    """

    def __init__(self, host: str = "", token: str = "") -> None:
        self.token = token or secrets.token_urlsafe(24)
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-"))
        if host:
            family, _, _, _, where = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
            self._sock = socket.create_server(where[:2], family=family)
            self.address = f"tcp:{host}:{self._sock.getsockname()[1]}"
        else:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._sock.bind(str(self.folder / "socket"))
            self.address = f"unix:{self.folder / 'socket'}"
        self._sock.listen()
        self.refused = ""

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sock.close()
        shutil.rmtree(self.folder)

    def accept(self, look: Callable[[], bool], silent_seconds: float = SILENT_SECONDS) -> Link | None:
        """The first solver that shows the token; None when *look* says that nobody will come any more.

        Who is refused is told why, and others may come: ``refused`` says why the last one was. For *silent_seconds*
        see `Link`.
        """
        while True:
            ready, _, _ = select.select([self._sock], [], [], _LISTEN_SECONDS)
            if ready:
                sock, _ = self._sock.accept()
                try:
                    return self._greeted(sock, look, silent_seconds)
                except JobError as error:
                    self.refused = str(error)
                    sock.close()
            elif not look():
                return None

    def _greeted(self, sock: socket.socket, look: Callable[[], bool], silent_seconds: float) -> Link:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            kept_alive(sock)
        link = Link(sock, look, silent_seconds)
        link.greet(self.token)
        return link
