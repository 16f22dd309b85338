"""``python -m penstock.runners.nodes ADDRESS COUNT SECONDS`` waits until a Ray cluster has so many nodes."""

from __future__ import annotations

import sys
import time

from penstock.runners.ray import Ray

__all__ = ["wait"]


def wait(address: str, count: int, seconds: float) -> bool:
    """Whether *count* nodes have joined the Ray cluster at *address* before *seconds* are over."""
    import ray

    end = time.monotonic() + seconds
    with Ray(address).session():
        while (found := sum(node["Alive"] for node in ray.nodes())) < count:
            if time.monotonic() > end:
                sys.stderr.write(f"{found} of {count} nodes have joined Ray at {address} in {seconds:g} s\n")
                return False
            time.sleep(0.5)
    return True


if __name__ == "__main__":
    address, count, seconds = sys.argv[1:]
    sys.exit(not wait(address, int(count), float(seconds)))
