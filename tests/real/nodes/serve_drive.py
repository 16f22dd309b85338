"""A service whose replicas are on many nodes, and a client on the driver's node, which notes each answer."""

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx

LINE = """
[runner]
use = "ray"
address = "{address}"

[pipeline.line]
source = {{ use = "jsonl", uri = "reads.jsonl", columns = {{ sequence = "string" }} }}
sink = {{ use = "parquet", uri = "out" }}

[[pipeline.line.step]]
use = "kmer"
k = 5
place = {{ kind = "actor", replicas = [2, 2], cpus = 0.6 }}
"""
READS = ["ACGTACGTAC", "TTTTTACCA", "GATTACAGATTACA"]


@contextmanager
def served(folder, address):
    (folder / "line.toml").write_text(LINE.format(address=address))
    (folder / "reads.jsonl").write_text("".join(json.dumps({"sequence": read}) + "\n" for read in READS))
    command = [str(Path(sys.executable).with_name("penstock")), "serve", f"{folder / 'line.toml'}#line", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        found = next(found for line in server.stdout if (found := re.search(r"served at (http://\S+)", line)))
        try:
            yield found[1]
        finally:
            server.terminate()


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    with served(folder, sys.argv[1]) as at, httpx.Client(base_url=at, timeout=400) as client:
        asked = {"rows": [{"sequence": read} for read in READS]}
        with (folder / "answers").open("w", buffering=1) as answers:
            while not (folder / "stop").exists():
                answer = client.post("/rows", json=asked)
                answers.write(json.dumps([answer.status_code, answer.json()]) + "\n")
