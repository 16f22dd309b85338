"""The application that RayService starts, on a real Ray Serve with its own proxy, built from the rendered manifest."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]

LINE = """
[pipeline.embeddings]
source = { use = "jsonl", uri = "in.jsonl", columns = { sequence = "string" } }
sink = { use = "parquet", uri = "out" }

[[pipeline.embeddings.step]]
use = "clean"
alphabet = "protein"
"""

DRIVE = """
import json, sys, urllib.error, urllib.request
import ray
from importlib import import_module
from ray import serve

made, port = json.loads(sys.argv[1]), int(sys.argv[2])
ray.init("local", num_cpus=2, object_store_memory=150_000_000, log_to_driver=False, include_dashboard=False)
serve.start(http_options={"host": "127.0.0.1", "port": port})
module, name = made["import_path"].split(":")
serve.run(getattr(import_module(module), name)(made["args"]), name=made["name"], route_prefix=made["route_prefix"])

def ask(**headers):
    body = json.dumps({"rows": [{"sequence": "EVQL"}]}).encode()
    headers["content-type"] = "application/json"
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/rows", body, headers)) as answer:
            return [answer.status, json.load(answer)]
    except urllib.error.HTTPError as error:
        return [error.code, None]

print("ANSWERS", json.dumps([ask(), ask(Authorization="Bearer " + "t" * 20)]))
serve.shutdown()
ray.shutdown()
"""


def test_the_rendered_service_answers_over_http(tmp_path, free_ports):
    manifest = yaml.safe_load((ROOT / "deploy/rendered/kuberay/rayservice.yaml").read_text())
    (made,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    (tmp_path / "pipeline.toml").write_text(LINE)
    (tmp_path / "in.jsonl").write_text('{"sequence": "EVQL"}\n')
    made["args"]["address"] = f"{tmp_path / 'pipeline.toml'}#embeddings"
    done = subprocess.run(
        [sys.executable, "-c", DRIVE, json.dumps(made), str(free_ports(1)[0])],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=tmp_path,
        env={**os.environ, "PENSTOCK_TOKEN": "t" * 20},
    )
    assert "ANSWERS" in done.stdout, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("ANSWERS"))
    refused, (status, answer) = json.loads(line.removeprefix("ANSWERS"))
    assert refused == [401, None]
    assert status == 200
    assert answer["rows"] == [{"sequence": "EVQL"}]
