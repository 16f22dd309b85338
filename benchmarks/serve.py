"""What a service costs: latency and rows a second at 1, 8 and 64 clients on loopback.

Each client sends one text, waits for its embedding by MiniLM, and sends the next (a closed loop). In turns:

* the bare model, in process: the same texts, as many at once as there are clients, tokens included;
* a plain FastAPI wrapper of the same steps by uvicorn, one process, without batching: each request in a thread;
* ``penstock serve --runner inline``, one process with batching;
* ``penstock serve``, a replica for each core on Ray Serve, with batching.

All take and give the same JSON. A process that has the model alone runs it by as many threads as there are cores, a
replica by one. The clients are a process on the same machine. `make bench NAME=serve`; other seconds and turns than
10 and 3 by `python benchmarks/serve.py SECONDS TURNS`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import measuring

HERE = Path(__file__).parent
TEXTS = HERE.parent / "examples" / "text" / "docstrings.jsonl"
CLIENTS = (1, 8, 64)
CORES = os.cpu_count() or 1
SECONDS, TURNS, WIDTH = 10.0, 3, 384

PIPELINE = f"""
[runner]
use = "ray"

[pipeline.line]
source = {{ use = "jsonl", uri = "{TEXTS}", columns = {{ text = "string" }} }}
sink = {{ use = "parquet", uri = "out" }}

[[pipeline.line.step]]
use = "tokens"
column = "text"
tokenizer = "minilm"
max_length = 256
too_long = "truncate"

[[pipeline.line.step]]
use = "encode"
model = "minilm"
normalize = true
threads = {CORES}
place = {{ kind = "actor", replicas = [{CORES}, {CORES}] }}
"""


def texts_of() -> list[str]:
    """Docstrings of mixed length, shuffled."""
    found = [json.loads(line)["text"] for line in TEXTS.read_text().splitlines()]
    random.Random(0).shuffle(found)
    return found


def transforms(stack: ExitStack) -> Any:
    """The steps, open, as one function."""
    from penstock.core import spec

    steps = spec.loads(PIPELINE, folder=HERE).pipelines[0].steps
    live = [stack.enter_context(step.stage.open()) for step in steps]

    def act(batch: Any) -> Any:
        for transform in live:
            batch = transform(batch)
        return batch

    return act


# --- the ways --------------------------------------------------------------------------------------------


def bare(seconds: float) -> dict[int, dict[str, float]]:
    """The model in this process, as many rows a call as there are clients; nobody has to be talked to."""
    with ExitStack() as stack:
        act = transforms(stack)
        return {clients: called(act, clients, seconds) for clients in CLIENTS}


def called(act: Any, at_once: int, seconds: float) -> dict[str, float]:
    import pyarrow as pa

    texts, waits = texts_of(), []
    act(pa.table({"text": texts[:at_once]}))
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        first = len(waits) * at_once
        batch = pa.table({"text": [texts[(first + n) % len(texts)] for n in range(at_once)]})
        waits.append(measuring.seconds(lambda batch=batch: act(batch)))
    return figures(waits, len(waits) * at_once, time.perf_counter() - started)


def wrapper() -> None:
    """What one writes first: FastAPI, the model in a global, one request after the other."""
    import pyarrow as pa
    import uvicorn
    from fastapi import FastAPI

    api, stack = FastAPI(), ExitStack()
    act = transforms(stack)

    @api.post("/rows")
    def rows(body: dict) -> dict:
        found = act(pa.Table.from_pylist(body["rows"]))
        vectors = found["embedding"].combine_chunks().to_numpy_ndarray().tolist()
        lines = found.drop_columns(["embedding"]).to_pylist()
        return {"rows": [{**line, "embedding": vector} for line, vector in zip(lines, vectors, strict=True)]}

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            port = self.servers[0].sockets[0].getsockname()[1]
            print(f"served at http://127.0.0.1:{port}", flush=True)

    Server(uvicorn.Config(api, port=0, log_level="error", access_log=False)).run()


@contextmanager
def service(folder: Path, *command: str) -> Iterator[str]:
    """A process that says where it serves."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
    try:
        while not (found := re.search(r"served at (http://\S+)", (folder / "log").read_text())):
            if process.poll() is not None:
                raise SystemExit((folder / "log").read_text())
            time.sleep(0.1)
        yield found[1]
    finally:
        process.terminate()
        process.wait(60)


def load(address: str, clients: int, seconds: float) -> dict[str, float]:
    """Clients in a closed loop, one row a request; latencies in seconds."""
    import httpx

    texts, waits = texts_of(), []

    async def client(http: httpx.AsyncClient, number: int, end: float) -> None:
        turn = number
        while time.perf_counter() < end:
            before = time.perf_counter()
            answer = await http.post("/rows", json={"rows": [{"text": texts[turn % len(texts)]}]})
            if answer.status_code != 200 or len(answer.json()["rows"][0]["embedding"]) != WIDTH:
                raise SystemExit(f"{answer.status_code}: {answer.text[:500]}")
            waits.append(time.perf_counter() - before)
            turn += clients

    async def act() -> float:
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as http:
            await asyncio.gather(*(client(http, n, time.perf_counter()) for n in range(clients)))
            started = time.perf_counter()
            await asyncio.gather(*(client(http, n, started + seconds) for n in range(clients)))
            return time.perf_counter() - started

    took = asyncio.run(act())
    return figures(waits, len(waits), took)


def figures(waits: Sequence[float], rows: int, seconds: float) -> dict[str, float]:
    """Median and 99th percentile in milliseconds, and rows a second."""
    cuts = statistics.quantiles(waits, n=100, method="inclusive") if len(waits) > 1 else [waits[0]] * 99
    return {"p50_ms": 1000 * cuts[49], "p99_ms": 1000 * cuts[98], "rows_a_second": rows / seconds}


# --- all of them, in turns -------------------------------------------------------------------------------


def main(seconds: float, turns: int) -> None:
    kept: dict[str, dict[int, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "line.toml").write_text(PIPELINE)
        serve = ("-c", "from penstock.cli import app; app()", "serve")
        ours = (*serve, str(folder / "line.toml"), "--port", "0")
        ways: dict[str, tuple[str, ...]] = {
            "plain FastAPI": (__file__, "wrapper"),
            "penstock serve, inline": (*ours, "--runner", "inline"),
            "penstock serve, Ray Serve": (*ours, "--set", "pipeline.line.step.1.threads=1"),
        }
        for turn in range(turns):
            told = subprocess.run([sys.executable, __file__, "bare", str(seconds)], stdout=subprocess.PIPE, check=True)
            for clients, found in json.loads(told.stdout).items():
                keep(kept, turn, "bare model", int(clients), found)
            for way, command in ways.items():
                with service(folder, *command) as address:
                    for clients in CLIENTS:
                        keep(kept, turn, way, clients, load(address, clients, seconds))
    sizes = {"seconds": seconds, "turns": turns, "texts": len(texts_of())}
    measuring.write("serve", {**sizes, "ways": summed(kept), "ratios": ratios(kept)})


def keep(kept: dict, turn: int, way: str, clients: int, found: dict[str, float]) -> None:
    kept.setdefault(way, {}).setdefault(clients, []).append(found)
    print(
        f"turn {turn + 1}: {way}, {clients} clients: " + ", ".join(f"{k} {v:.1f}" for k, v in found.items()), flush=True
    )


def summed(kept: dict) -> dict:
    """Medians with the least and the most."""
    return {
        way: {
            f"{clients} clients": {key: measuring.spread([one[key] for one in found]) for key in found[0]}
            for clients, found in by_clients.items()
        }
        for way, by_clients in kept.items()
    }


def ratios(kept: dict) -> dict:
    """Rows a second over those of the plain wrapper and of the bare model, turn by turn."""
    return {
        f"{way} over {other}": {
            f"{clients} clients": measuring.spread(
                [a["rows_a_second"] / b["rows_a_second"] for a, b in zip(found, kept[other][clients], strict=True)]
            )
            for clients, found in kept[way].items()
        }
        for way in kept
        for other in ("plain FastAPI", "bare model")
        if way.startswith("penstock")
    }


if __name__ == "__main__":
    what, *words = sys.argv[1:] or ["all"]
    if what == "wrapper":
        wrapper()
    elif what == "bare":
        print(json.dumps(bare(float(words[0]))))
    else:
        main(float(what) if what != "all" else SECONDS, int(words[0]) if words else TURNS)
