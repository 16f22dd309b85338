"""What a service on Ray Serve survives: the loads of tests/real/serve/test_serve_on_ray.py, counted.

* Malformed requests, five kinds in JSON and in Arrow: cut short, noise, other columns, other types, junk in front.
* Two replicas, one of which is killed under load again and again: requests that were accepted and not answered rightly.

`make bench NAME=serve_faults`; ``REQUESTS=100 KILLS=1`` in the environment tries it out.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import measuring

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "real" / "serve"))
import test_serve_on_ray as faults

REQUESTS, KILLS = int(os.environ.get("REQUESTS", "1000")), int(os.environ.get("KILLS", "20"))


def malformed(folder: Path) -> dict[str, Any]:
    """Answers to requests that make no sense, and whether a good one is answered afterwards."""
    with faults.served(faults.made(folder)) as (_, address), httpx.Client(base_url=address, timeout=60) as client:
        statuses = Counter(faults.malformed_statuses(client, REQUESTS))
        after = client.post("/rows", json=faults.rows_of("ACD")).status_code
    return {"requests": REQUESTS, "statuses": dict(sorted(statuses.items())), "a_good_one_afterwards": after}


def killed(folder: Path) -> dict[str, Any]:
    """Requests under load while replicas are killed."""
    with faults.served(faults.made(folder, low=2, high=2)) as (_, address):
        told, metrics = asyncio.run(faults.killed_under_load(folder, address, KILLS))
    right = sum(answer == (200, text) for text, answer in told)
    retries = next(line for line in metrics.splitlines() if line.startswith("penstock_retries_total "))
    return {
        "kills": KILLS,
        "requests": len(told),
        "answered_rightly": right,
        "lost": len(told) - right,
        "batches_sent_again": float(retries.split()[1]),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        result = {"malformed": malformed(Path(one)), "killed_replicas": killed(Path(other))}
    measuring.write("serve_faults", result)


if __name__ == "__main__":
    main()
