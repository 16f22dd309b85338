"""`penstock serve` on a real Ray Serve, spoken to over loopback."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pytest

from penstock.core import spec
from penstock.core.batch import from_bytes, to_bytes
from penstock.core.reading import read_table
from penstock.runners.inline import Inline
from penstock.serving.codec import ARROW
from penstock.testing.models import tiny_encoder

TOKEN = "a-token-of-these-tests-" + "0" * 16
PATIENCE = 240
"""Seconds after which an answer is given up; a busy machine may take long for one."""

PIPELINE = """
[runner]
use = "ray"
cpus = {cpus}
object_store_bytes = 150000000

[pipeline.embeddings]
source = {{ use = "jsonl", uri = "in.jsonl", columns = {{ sequence = "string" }} }}
sink = {{ use = "parquet", uri = "out" }}

[[pipeline.embeddings.step]]
use = "clean"
alphabet = "protein"

[[pipeline.embeddings.step]]
use = "tokens"
tokenizer = "model"

[[pipeline.embeddings.step]]
use = "function"
function = "steps:slow"
place = {{ kind = "actor", replicas = [{low}, {high}], cpus = 0.5 }}

[[pipeline.embeddings.step]]
use = "encode"
model = "model"
threads = 1
"""

STEPS = """
import os, time
from pathlib import Path

def slow(batch):
    file = Path(os.environ["SLOW"])
    with (file.parent / "pids").open("a") as pids:
        pids.write(f"{os.getpid()}\\n")
    time.sleep(float(file.read_text()) if file.exists() else 0)
    return batch
"""


def texts(count, seed=0):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), n)) for n in rng.integers(1, 60, count)]


def made(folder, low=1, high=1, cpus=2):
    """A pipeline file with its model, data and a step that can be told to be slow."""
    tiny_encoder(folder / "model")
    (folder / "in.jsonl").write_text("".join(json.dumps({"sequence": text}) + "\n" for text in texts(40)))
    (folder / "steps.py").write_text(STEPS)
    (folder / "line.toml").write_text(PIPELINE.format(low=low, high=high, cpus=cpus))
    return folder


@contextmanager
def served(folder, *options, env=None):
    """The service as a user starts it; gives the process and its address."""
    command = [str(Path(sys.executable).parent / "penstock"), "serve", f"{folder / 'line.toml'}#embeddings"]
    around = {**os.environ, "PYTHONPATH": str(folder), "SLOW": str(folder / "slow"), **(env or {})}
    with (folder / "err").open("w") as err, (folder / "out.txt").open("w") as out:
        server = subprocess.Popen([*command, "--port", "0", *options], stdout=out, stderr=err, env=around)
    children = []
    try:
        yield server, _address(server, folder)
        children = psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
        for child in psutil.wait_procs(children, 60)[1]:
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                child.kill()


def _address(server, folder, seconds=400):
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        if found := re.search(r"served at (http://\S+)", (folder / "out.txt").read_text()):
            return found[1]
        time.sleep(0.1)
    pytest.fail(f"it did not come up:\n{(folder / 'out.txt').read_text()}{(folder / 'err').read_text()}")


def rows_of(*values):
    return {"rows": [{"sequence": value} for value in values]}


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    """One service for the tests that leave it as it is; its folder and address."""
    folder = made(tmp_path_factory.mktemp("served"))
    with served(folder, env={"PENSTOCK_TOKEN": TOKEN}) as (_, address):
        yield folder, address


@pytest.fixture
def client(up):
    with httpx.Client(base_url=up[1], headers={"authorization": f"Bearer {TOKEN}"}, timeout=PATIENCE) as client:
        yield client


def test_answers_are_those_of_the_batch_run_bit_for_bit(up, client, monkeypatch):
    folder = up[0]
    monkeypatch.setenv("SLOW", str(folder / "slow"))
    monkeypatch.syspath_prepend(str(folder))
    Inline().run(spec.load(folder / "line.toml").pipeline("embeddings"))
    batch = read_table(str(folder / "out"))
    sent = bytes(to_bytes(pa.table({"sequence": texts(40)})))
    answer = client.post("/rows", content=sent, headers={"content-type": ARROW})
    assert answer.status_code == 200
    assert from_bytes(answer.content).replace_schema_metadata().equals(batch.replace_schema_metadata())
    told = client.post("/rows", json=rows_of(*texts(40))).json()["rows"]
    assert [row["embedding"] for row in told] == batch["embedding"].combine_chunks().to_numpy_ndarray().tolist()


def test_many_clients_share_batches_and_each_gets_its_own_rows(up, client):
    before = _counted(client, "penstock_batch_requests_count")
    (up[0] / "slow").write_text("1.0")

    async def act():
        async with httpx.AsyncClient(base_url=up[1], headers=client.headers, timeout=PATIENCE) as many:
            return await asyncio.gather(*(many.post("/rows", json=rows_of(text)) for text in texts(32, seed=2)))

    answers = asyncio.run(act())
    (up[0] / "slow").unlink()
    assert [one.json()["rows"][0]["sequence"] for one in answers] == texts(32, seed=2)
    assert _counted(client, "penstock_batch_requests_count") - before < 16


def _counted(client, name):
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def test_health_readiness_pages_and_token(up, client):
    for path in ("/healthz", "/readyz", "/", "/docs", "/openapi.json"):
        assert httpx.get(up[1] + path, timeout=PATIENCE).status_code == 200, path
    for path in ("/metrics", "/schema"):
        assert httpx.get(up[1] + path, timeout=PATIENCE).status_code == 401, path
        assert client.get(path).status_code == 200, path
    assert httpx.post(up[1] + "/rows", json=rows_of("ACD"), timeout=PATIENCE).status_code == 401
    assert TOKEN not in " ".join(psutil.Process(_listener(up[1])).cmdline())


def _listener(address):
    port = int(address.rsplit(":", 1)[1])
    return next(
        c.pid for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.status == "LISTEN"
    )


def test_a_thousand_malformed_requests_give_4xx_and_the_service_stays_up(up, client):
    statuses = malformed_statuses(client, 1000)
    assert {status // 100 for status in statuses} == {4}, set(statuses)
    assert client.post("/rows", json=rows_of("ACD")).status_code == 200
    assert client.get("/readyz").status_code == 200


def malformed_statuses(client, count):
    """Also for benchmarks/serve_faults.py."""
    chance = random.Random(0)
    stream = bytes(to_bytes(pa.table({"sequence": texts(5)})))
    plain = json.dumps(rows_of("ACD")).encode()
    statuses = []
    for turn in range(count):
        kind, sent = ("application/json", plain) if turn % 2 else (ARROW, stream)
        statuses.append(_sent(client, kind, _malformed(chance, turn // 2 % 5, sent)))
    return statuses


def _malformed(chance, how, sent):
    if how == 0:
        return sent[: chance.randrange(len(sent) - 20)]
    if how == 1:
        return chance.randbytes(chance.randrange(300))
    if how == 2:
        return bytes(to_bytes(pa.table({f"c{chance.random()}": [1]}))) if sent[:1] != b"{" else b'{"rows": 3}'
    if how == 3:
        return (
            bytes(to_bytes(pa.table({"sequence": [1.5]}))) if sent[:1] != b"{" else json.dumps(rows_of({}, 7)).encode()
        )
    return b"\xff" * chance.randrange(1, 50) + sent


def _sent(client, kind, body):
    return client.post("/rows", content=body, headers={"content-type": kind}).status_code


def test_broken_http_costs_nobody_else(up, client):
    host, port = up[1].removeprefix("http://").split(":")

    async def act():
        for junk in (b"\x00" * 100, b"GET / HTTP/9.9\r\n\r\n", b"POST /rows HTTP/1.1\r\ncontent-length: -5\r\n\r\n"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(junk)
            await writer.drain()
            assert (await asyncio.wait_for(reader.read(12), PATIENCE))[9:10] in (b"4", b"")
            writer.close()

    asyncio.run(act())
    assert client.post("/rows", json=rows_of("ACD")).status_code == 200


# --- losses ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A service with two replicas."""
    folder = made(tmp_path_factory.mktemp("pair"), low=2, high=2)
    with served(folder, "--drain-seconds", "300") as (server, address):
        yield folder, server, address


def test_a_replica_killed_under_load_loses_no_accepted_request(pair):
    folder, _, address = pair
    told, metrics = asyncio.run(killed_under_load(folder, address, 2))
    assert len(told) >= 16
    assert [answer for _, answer in told] == [(200, text) for text, _ in told]
    assert re.search(r"penstock_retries_total [1-9]", metrics), "a batch was under way in what was killed"


async def killed_under_load(folder, address, kills):
    """What 16 clients asked and were told, and the metrics; also for benchmarks/serve_faults.py."""
    (folder / "slow").write_text("0.5")
    told, over = [], asyncio.Event()

    async def client(many, number):
        for turn in range(10_000):
            if over.is_set():
                return
            [text] = texts(1, seed=10_000 * number + turn)
            told.append((text, await _posted(many, text)))

    async with httpx.AsyncClient(base_url=address, timeout=PATIENCE) as many:
        clients = [asyncio.create_task(client(many, number)) for number in range(16)]
        for _ in range(kills):
            os.kill(await _at_work(folder / "pids"), signal.SIGKILL)
            answers = len(told)
            while len(told) == answers:  # lest one batch ends three workers, which is refused for that
                await asyncio.sleep(0.02)
        await _at_work(folder / "pids")
        over.set()
        await asyncio.gather(*clients)
        metrics = (await many.get("/metrics")).text
    (folder / "slow").unlink()
    return told, metrics


async def _at_work(pids, seconds=PATIENCE):
    """The process of a replica that has just begun a batch, which takes it a while."""
    pids.write_text("")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(0.02)
        if found := pids.read_text().split():
            return int(found[-1])
    pytest.fail("no replica took a batch")


async def _posted(many, text):
    answer = await many.post("/rows", json=rows_of(text))
    return answer.status_code, answer.json()["rows"][0]["sequence"] if answer.status_code == 200 else answer.text


def test_sigterm_drains_what_was_taken_and_leaves_nothing_running(pair):
    folder, server, address = pair
    (folder / "slow").write_text("5.0")
    children = psutil.Process(server.pid).children(recursive=True)

    async def act():
        async with httpx.AsyncClient(base_url=address, timeout=PATIENCE) as many:
            asked = [asyncio.create_task(_posted(many, text)) for text in texts(6, seed=4)]
            await _at_work(folder / "pids")
            await asyncio.sleep(3)  # the others were sent with the one that is at work, for five seconds
            server.send_signal(signal.SIGTERM)
            assert await _nobody_listens(address)
            return await asyncio.gather(*asked)

    assert asyncio.run(act()) == [(200, text) for text in texts(6, seed=4)]
    assert server.wait(PATIENCE) == 0
    _, alive = psutil.wait_procs(children, 180)
    assert not alive, "nothing of Ray is left"


async def _nobody_listens(address, seconds=PATIENCE):
    """Whether it comes to that no new request is taken."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            async with httpx.AsyncClient(timeout=PATIENCE) as fresh:
                await fresh.get(f"{address}/healthz")
        except httpx.TransportError as error:
            if isinstance(error, httpx.ConnectError):
                return True  # the others were about to be taken, and were not
        await asyncio.sleep(0.1)
    return False


def test_replicas_are_added_under_load(tmp_path):
    folder = made(tmp_path, low=1, high=2)
    (folder / "slow").write_text("0.2")
    with served(folder, "--batch-requests", "1") as (_, address):
        asyncio.run(_until_two_work(folder / "pids", address))
        assert len(set((folder / "pids").read_text().split())) == 2


async def _until_two_work(pids, address, seconds=400):
    end = time.monotonic() + seconds
    async with httpx.AsyncClient(base_url=address, timeout=PATIENCE) as many:

        async def client(number):
            while time.monotonic() < end and (not pids.exists() or len(set(pids.read_text().split())) < 2):
                assert (await _posted(many, texts(1, seed=number)[0]))[0] == 200

        await asyncio.gather(*(client(number) for number in range(8)))


def test_while_it_lingers_it_answers_and_says_that_it_ends(tmp_path):
    folder = made(tmp_path)
    with served(folder, "--runner", "inline", "--linger-seconds", "20") as (server, address):
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            assert client.get("/readyz").status_code == 200
            server.send_signal(signal.SIGTERM)
            while (status := httpx.get(f"{address}/readyz", timeout=PATIENCE).status_code) == 200:
                time.sleep(0.1)  # it has not heard of the signal yet
            assert status == 503
            assert httpx.post(f"{address}/rows", json=rows_of("ACD"), timeout=PATIENCE).status_code == 200
        assert server.wait(PATIENCE) == 0


def test_replicas_that_do_not_fit_and_steps_that_cannot_be_opened_are_told_at_once(tmp_path):
    folder = made(tmp_path, low=9, high=9)
    done = _refused(folder)
    assert done.returncode == 1
    assert "9 replicas x 0.5 cpus = 4.5 cpus, there are 2 (this machine)" in done.stderr
    short = _refused(folder, env={"PENSTOCK_TOKEN": "short"})
    assert "the token in $PENSTOCK_TOKEN has 5 characters, at least 16 were needed" in short.stderr


def _refused(folder, *options, env=None):
    command = [str(Path(sys.executable).parent / "penstock"), "serve", f"{folder / 'line.toml'}#embeddings", *options]
    around = {**os.environ, "PYTHONPATH": str(folder), "SLOW": str(folder / "slow"), **(env or {})}
    return subprocess.run([*command, "--port", "0"], capture_output=True, text=True, env=around, timeout=PATIENCE)
