"""Ask a service about one new read: `python ask.py http://127.0.0.1:8000`."""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

from reads import genomes, simulate

ORGANISM = "phage_lambda"


def asked(url: str, read: str) -> Any:
    """The service's answer about a read."""
    body = json.dumps({"rows": [{"sequence": read}]}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})  # noqa: S310 (one's own service)
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
        return json.load(answer)


def main() -> None:
    """A read that no training has seen: its vector, and what lies nearest."""
    [(_, read)] = simulate({ORGANISM: genomes()[ORGANISM]}, reads=1, length=3000, error=0.05, seed=1)
    vector = asked(f"{sys.argv[1]}/rows", read)["rows"][0]["embedding"]
    print(f"a new read of {ORGANISM}: {len(vector)} numbers, {', '.join(f'{x:.4f}' for x in vector[:4])} ...")
    [place] = asked(f"{sys.argv[1]}/neighbours", read)["map"]
    print("its nearest neighbours:", ", ".join(near["name"] for near in place["neighbours"][:5]))


if __name__ == "__main__":
    main()
