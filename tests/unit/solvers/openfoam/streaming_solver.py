#!/usr/bin/env python3
"""Stands in for OpenFOAM with the plugin: reads its controlDict, says hello, and takes a plane for each step.

Its velocity after a step is the plane of that step, so what it writes tells what it was given. The environment says
how it misbehaves: ``MISBEHAVE=die|fatal|nan|short|magic|version|slow|stopped|left`` at step ``AT``. When it is *slow*
it takes two seconds and shows that it lives; when it has *left*, another process still holds its end of the stream.
"""

import math
import os
import re
import signal
import socket
import struct
import time
from pathlib import Path

HEAD = struct.Struct("<4sHHq")
HELLO, WELCOME, STATE, PLANE, FAILURE, END, ALIVE = 1, 2, 3, 4, 5, 6, 7
LAST_LINE = "// ************************************************************************* //\n"
FACES = 4
NUMBERS = f"<{3 * FACES}d"


def exactly(sock, size):
    data = b""
    while len(data) < size:
        data += (more := sock.recv(size - len(data)))
        if not more:
            raise SystemExit("--> FOAM FATAL ERROR: \npenstock: the generator is gone\n\nFOAM exiting\n")
    return data


def receive(sock):
    _, _, kind, size = HEAD.unpack(exactly(sock, HEAD.size))
    payload = exactly(sock, size)
    if kind == FAILURE:
        raise SystemExit(f"--> FOAM FATAL ERROR: \npenstock: the generator says: {payload.decode()}\n\nFOAM exiting\n")
    return payload


def send(sock, kind, payload, magic=b"PSTK", version=2):
    sock.sendall(HEAD.pack(magic, version, kind, len(payload)) + payload)


def misbehave(sock, how):
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "fatal":
        raise SystemExit("--> FOAM FATAL ERROR: \nthe mesh is bad\n\n    From function x\nFOAM exiting\n")
    if how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "slow":
        for _ in range(20):
            send(sock, ALIVE, b"")
            time.sleep(0.1)
    if how == "left":
        if os.fork():
            os.kill(os.getpid(), signal.SIGKILL)
        while sock.recv(1 << 16):
            pass
        os._exit(0)


def write(folder, velocity):
    (folder / "uniform").mkdir(parents=True)
    (folder / "uniform" / "time").write_text(LAST_LINE)
    (folder / "velocity").write_bytes(velocity + b"\n" + LAST_LINE.encode())


def main():
    text = Path("system/controlDict").read_text()
    found = {name: re.search(rf"\b{name} (\S+);", text)[1] for name in ("endTime", "deltaT", "interval", "address")}
    dt, interval = float(found["deltaT"]), int(found["interval"])
    steps = round(float(found["endTime"]) / dt)
    how, at = os.environ.get("MISBEHAVE", ""), int(os.environ.get("AT", "0"))
    kind, _, where = found["address"].strip('"').partition(":")
    sock = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    sock.connect(where if kind == "unix" else (where.split(":")[0], int(where.split(":")[1])))
    start = max(int(path.name) for path in Path().iterdir() if path.name.isdigit())
    velocity = struct.pack(NUMBERS, *[1.0] * 3 * FACES)
    if (Path(str(start)) / "velocity").exists():
        velocity = (Path(str(start)) / "velocity").read_bytes()[: len(velocity)]
    if start == steps:
        return
    token = Path(os.environ["PENSTOCK_TOKEN_FILE"]).read_bytes()
    told = struct.pack("<qdddiiiiq", start, start * dt, dt, steps * dt, interval, 1, 3, 1, FACES)
    told += b"".join(struct.pack("<H", len(text)) + text for text in (token, b"U", b"inlet"))
    told += struct.pack(NUMBERS, *range(3 * FACES))
    send(sock, HELLO, told, *((b"HTTP",) if how == "magic" else ()), **({"version": 9} if how == "version" else {}))
    receive(sock)
    for step in range(start, steps + 1):
        if step == at:
            misbehave(sock, how)
        if step % interval == 0 or step in (start, steps):
            values = struct.pack(NUMBERS, *[math.nan] * 3 * FACES) if step == at and how == "nan" else velocity
            values = values[24:] if step == at and how == "short" else values
            send(sock, STATE, struct.pack("<qddq", step, step * dt, dt, step == steps) + values)
            if step < steps:
                velocity = receive(sock)[8:]
        if step < steps:
            done = step + 1
            if done % 5 == 0 or done == steps:
                write(Path(str(done)), velocity)
            print(f"Time = {done}\n\nExecutionTime = 0 s\n", flush=True)
    send(sock, END, b"")


main()
