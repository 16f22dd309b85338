"""The stream's protocol: whatever way the bytes are cut, and whoever connects."""

import errno
import os
import socket
import struct
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import JobError
from penstock.solvers.openfoam.exchange import (
    HEAD,
    HELLO,
    STATE,
    STEP,
    VERSION,
    Gone,
    Kind,
    Link,
    Server,
    Silent,
    fill,
    kept_alive,
)


def frame(kind, payload=b"", magic=b"PSTK", version=VERSION):
    return HEAD.pack(magic, version, kind, len(payload)) + payload


def hello(token="secret", count=2, components=3, field="U", patch="inlet", target=1):
    texts = b"".join(struct.pack("<H", len(text)) + text for text in (token.encode(), field.encode(), patch.encode()))
    head = HELLO.pack(7, 0.5, 0.1, 2.0, 3, 4, components, target, count)
    return frame(Kind.HELLO, head + texts + np.arange(3.0 * count).tobytes())


def state(values, step=7, last=False):
    return frame(Kind.STATE, STATE.pack(step, 0.5, 0.1, last) + np.asarray(values, float).tobytes())


@pytest.fixture
def pair():
    """A link, and the solver's end of it."""
    ours, theirs = socket.socketpair()
    link = Link(ours)
    yield link, theirs
    link.close()
    theirs.close()


def greeted(pair, **told):
    link, theirs = pair
    theirs.sendall(hello(**told))
    link.greet("secret")
    assert theirs.recv(HEAD.size) == frame(Kind.WELCOME)
    return link, theirs


def answer(theirs):
    magic, version, kind, size = HEAD.unpack(theirs.recv(HEAD.size))
    assert (magic, version) == (b"PSTK", VERSION)
    return kind, theirs.recv(size, socket.MSG_WAITALL)


def test_a_hello_says_all_about_the_solver(pair):
    link, _ = greeted(pair)
    told = link.hello
    assert (told.step, told.time, told.dt, told.end_time) == (7, 0.5, 0.1, 2.0)
    assert (told.interval, told.ranks, told.components, told.target) == (3, 4, 3, "patch")
    assert (told.field, told.patch, told.count, told.shape) == ("U", "inlet", 2, (2, 3))
    assert np.array_equal(told.centres, np.arange(6.0).reshape(2, 3))


def test_scalars_have_one_number_a_face(pair):
    link, theirs = greeted(pair, components=1)
    theirs.sendall(state([3.0, 4.0]))
    assert link.receive().values.tolist() == [3.0, 4.0]


@given(st.data())
def test_bytes_may_come_cut_in_any_way(data):
    sent = hello() + state(np.arange(6.0)) + state(np.arange(6.0) * 2, 8, last=True) + frame(Kind.END)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sent) - 1), max_size=40)))
    chunks = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    link = Link(Chunked(chunks))
    link.greet("secret")
    first, second = link.receive(), link.receive()
    assert (first.step, first.last, second.step, second.last) == (7, False, 8, True)
    assert np.array_equal(second.values, np.arange(6.0).reshape(2, 3) * 2)
    assert link.receive() is None


class Chunked:
    """A socket whose bytes come in given pieces, and that takes three bytes at a time."""

    def __init__(self, chunks):
        self.chunks, self.sent = list(chunks), b""

    def recv_into(self, view):
        if not self.chunks:
            return 0
        head, rest = self.chunks[0][: view.nbytes], self.chunks[0][view.nbytes :]
        view[: len(head)] = head
        self.chunks[:1] = [rest] if rest else []
        return len(head)

    def sendmsg(self, views):
        piece = b"".join(bytes(view) for view in views)[:3]
        self.sent += piece
        return len(piece)

    def settimeout(self, seconds):
        pass


@given(st.binary(max_size=100), st.lists(st.integers(1, 9), max_size=120))
def test_fill_is_read_exactly(data, sizes):
    target, at = bytearray(len(data)), 0
    steps = iter(sizes)

    def receive(view):
        nonlocal at
        count = min(next(steps, 1), view.nbytes)
        view[:count] = data[at : at + count]
        at += count
        return count

    fill(receive, memoryview(target))
    assert target == data


def test_a_plane_arrives_whole_though_the_socket_takes_three_bytes_at_a_time():
    sock = Chunked([hello()])
    link = Link(sock)
    link.greet("secret")
    sock.sent = b""
    link.send(7, np.arange(6.0).reshape(2, 3))
    assert sock.sent == frame(Kind.PLANE, STEP.pack(7) + np.arange(6.0).tobytes())


def test_planes_of_other_types_and_orders_are_sent_as_float64(pair):
    link, theirs = greeted(pair)
    link.send(7, np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)))
    assert answer(theirs) == (Kind.PLANE, STEP.pack(7) + np.arange(6.0).tobytes())


@pytest.mark.parametrize(
    ("plane", "said"),
    [
        (np.zeros((3, 3)), "the plane for step 9 has shape [3, 3], and patch inlet needs [2, 3] for U"),
        (np.zeros(6), "the plane for step 9 has shape [6], and patch inlet needs [2, 3] for U"),
        (
            np.array([[0, 1, 2], [0, np.inf, np.nan]]),
            "the plane for step 9 is NaN or infinite in 2 of 6 numbers, the first at [1, 1]; "
            "the solver was not given it",
        ),
    ],
)
def test_a_bad_plane_is_refused_and_the_solver_is_told(pair, plane, said):
    link, theirs = greeted(pair)
    with pytest.raises(JobError) as raised:
        link.send(9, plane)
    assert str(raised.value) == said
    assert answer(theirs) == (Kind.FAILURE, said.encode())


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (state(np.zeros(5)), "the solver sent 40 bytes of values, and 48 were due"),
        (state([0, 1, np.nan, 0, 0, 0]), "the solver's U is NaN or infinite in 1 of 6 numbers, the first at [0, 2] at"),
        (frame(Kind.PLANE), "the solver sent frame 4 where a state was due"),
        (frame(Kind.FAILURE, b"no such patch"), "the solver gave up: no such patch"),
        (frame(Kind.STATE, version=5), "the solver's plugin speaks version 5 of the protocol, and Penstock version 2;"),
        (b"GET / HTTP/1.1\r\n", "who connected is no solver of Penstock: it sent b'GET ' where b'PSTK' was due"),
    ],
)
def test_what_a_solver_must_not_send(pair, sent, said):
    link, theirs = greeted(pair)
    theirs.sendall(sent)
    with pytest.raises(JobError) as raised:
        link.receive()
    assert said in str(raised.value)


@pytest.mark.parametrize("cut", [0, 3, HEAD.size, HEAD.size + 5, HEAD.size + STATE.size + 11])
def test_a_solver_that_goes_away_in_the_middle(pair, cut):
    link, theirs = greeted(pair)
    theirs.sendall(state(np.zeros(6))[:cut])
    theirs.close()
    with pytest.raises(Gone, match="the solver closed the stream without a word"):
        link.receive()


def quiet(pair, look=lambda: True, silent_seconds=0.2):
    """A link to a solver that has said hello, and says nothing more."""
    link = Link(pair[0]._sock, look, silent_seconds)
    pair[1].sendall(hello())
    link.greet("secret")
    return link


def test_a_solver_that_shows_no_sign_of_life_is_given_up(pair):
    with pytest.raises(Silent, match=r"no sign of life for 0.2 s; is it stopped, or its node lost\?"):
        quiet(pair).receive()


def test_a_solver_that_takes_nothing_is_given_up(pair):
    pair[0]._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 12)
    link = quiet(pair)
    with pytest.raises(Silent, match=r"no sign of life for 0.2 s"):
        link._send(bytes(1 << 20))


def test_a_slow_solver_that_shows_that_it_lives_is_waited_for(pair):
    """Ten times as long as a silent one."""
    link = quiet(pair)

    def solver():
        for _ in range(20):
            pair[1].sendall(frame(Kind.ALIVE))
            time.sleep(0.1)
        pair[1].sendall(state(np.ones(6)))

    thread = threading.Thread(target=solver)
    thread.start()
    assert link.receive().values.sum() == 6
    thread.join()


def test_a_connection_that_outlives_its_solver_is_no_sign_of_life(pair, monkeypatch):
    monkeypatch.setattr("penstock.solvers.openfoam.exchange._LOOK_SECONDS", 0.01)
    with pytest.raises(Gone, match="the solver has ended, and its stream is open still"):
        quiet(pair, lambda: False, 60).receive()


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EHOSTUNREACH])
def test_a_node_that_is_lost(number):
    class Lost(Chunked):
        def recv_into(self, view):
            raise OSError(number, "what the kernel says when its probes have no answer")

    link = Link(sock := Chunked([hello()]))
    link.greet("secret")
    sock.recv_into = Lost([]).recv_into
    with pytest.raises(Silent, match="its node does not answer any more"):
        link._receive(memoryview(bytearray(4)))


def test_the_kernel_probes_an_idle_connection():
    with socket.socket() as sock:
        kept_alive(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle, every, count = (sock.getsockopt(socket.IPPROTO_TCP, option) for option in options)
        assert idle + every * count == 30


def test_sending_to_a_solver_that_is_gone(pair):
    link, theirs = greeted(pair)
    theirs.close()
    with pytest.raises(Gone, match="the solver closed the stream"):
        link.send(7, np.zeros((2, 3)))
    link.fail("nobody hears it")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (hello("guess"), "the solver's token is not the generator's; give the solver PENSTOCK_TOKEN_FILE"),
        (hello(components=2), "the solver's hello is damaged"),
        (frame(Kind.STATE), "who connected sent frame 3 where a hello was due"),
    ],
)
def test_who_is_refused_is_told_why(pair, sent, said):
    link, theirs = pair
    theirs.sendall(sent)
    with pytest.raises(JobError) as raised:
        link.greet("secret")
    assert said in str(raised.value)
    assert said in answer(theirs)[1].decode()


def test_who_says_nothing_does_not_keep_others_waiting(pair, monkeypatch):
    monkeypatch.setattr("penstock.solvers.openfoam.exchange._HELLO_SECONDS", 0.05)
    with pytest.raises(JobError, match=r"who connected said no hello in 0.05 s"):
        pair[0].greet("secret")


def connected(address):
    kind, _, where = address.partition(":")
    host, _, port = where.rpartition(":")
    sock = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    sock.connect(where if kind == "unix" else (host, int(port)))
    return sock


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_a_stranger_does_not_keep_the_solver_away(host):
    with Server(host) as server:
        stranger, solver = connected(server.address), connected(server.address)
        stranger.sendall(hello("guess"))
        solver.sendall(hello(server.token))
        link = server.accept(lambda: True)
        assert link.hello.count == 2
        assert "token" in server.refused
        for sock in (stranger, solver, link):
            sock.close()


def test_nobody_is_waited_for_when_nobody_will_come():
    with Server() as server:
        assert server.accept(lambda: False) is None


def test_the_socket_is_gone_after_the_end_and_only_ours_before():
    with Server() as server:
        assert server.folder.stat().st_mode & 0o777 == 0o700
        assert server.folder.stat().st_uid == os.getuid()
    assert not server.folder.exists()


def test_a_thousand_exchanges_of_forty_faces(pair):
    link, theirs = pair
    theirs.sendall(hello(count=40))
    link.greet("secret")
    theirs.recv(HEAD.size)
    plane = np.ones((40, 3))

    def solver():
        for step in range(1000):
            theirs.sendall(state(plane, step, step == 999))
            theirs.recv(HEAD.size + STEP.size + plane.nbytes, socket.MSG_WAITALL)

    thread = threading.Thread(target=solver)
    thread.start()
    for step in range(1000):
        assert link.receive().step == step
        link.send(step, plane)
    thread.join()
