"""What random losses cost on four Ray nodes with addresses of their own: 30 workers, 19 nodes, and once the head.

The nodes are network namespaces of this machine (`tests/real/nodes/machines.py`), each with a Ray of its own, three of
them with a core for work. A line of units runs again and again, to a fresh place each time, while at random moments a
worker or a whole node is killed; a node comes back at once. When the head is killed, all nodes are started again and
the same run goes on. Each dataset is held against the undisturbed one, row for row and part for part, and how many
batches were done twice is counted. Needs root.
`make bench NAME=many_nodes`; `--losses 6` for a try.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import measuring

from penstock.core.dataset import existing
from penstock.core.reading import read_table
from penstock.runners.inline import Inline

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/real/nodes"))
import many_drive
from machines import Machines, machines

UNITS, SECONDS, NODES = 120, 0.15, 4
COLUMNS = ["unit", "rows", "part_sha256", "bad_rows"]


class Trouble:
    """Losses at random moments, of kinds that were shuffled before."""

    def __init__(self, losses: int, seed: int) -> None:
        self.random, self.done = random.Random(seed), Counter[str]()
        nodes = max(1, losses * 19 // 50)
        self.left = ["head", *["node"] * nodes, *["worker"] * (losses - nodes - 1)]
        self.random.shuffle(self.left)

    def strike(self, nodes: Machines) -> str:
        """What was lost, or nothing where no worker was up."""
        kind, node = self.left[-1], self.random.randrange(1, NODES)
        if kind == "worker":
            workers = nodes.processes(node, "ray::MapWorker")
            if not workers:
                return ""
            with suppress(ProcessLookupError):
                os.kill(self.random.choice(workers), signal.SIGKILL)
        else:
            nodes.kill(0 if kind == "head" else node)
            if kind == "node":
                nodes.start(node)
        self.done[self.left.pop()] += 1
        return kind


def lines(journal: Path) -> int:
    return len(journal.read_text().splitlines()) if journal.exists() else 0


def begin(nodes: Machines, folder: Path) -> subprocess.Popen[str]:
    words = (str(folder / "out"), str(folder / "journal"), str(UNITS), str(SECONDS))
    return nodes.driver(Path(many_drive.__file__), *words)


def disturbed(nodes: Machines, folder: Path, trouble: Trouble) -> int:
    """One dataset; how many drivers it took."""
    drivers, driver = 1, begin(nodes, folder)
    while driver.poll() is None:
        before = lines(folder / "journal")
        while driver.poll() is None and lines(folder / "journal") < before + 4:
            time.sleep(0.05)
        time.sleep(trouble.random.uniform(0, 1.5))
        if driver.poll() is not None or not trouble.left or trouble.strike(nodes) != "head":
            continue
        driver.communicate(timeout=180)
        for node in range(NODES):
            nodes.kill(node)
        for node in range(NODES):
            nodes.start(node)
        drivers, driver = drivers + 1, begin(nodes, folder)
    out, err = driver.communicate()
    if driver.returncode:
        raise SystemExit(out + err)
    return drivers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--losses", type=int, default=50)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    base, trouble = Path(tempfile.mkdtemp(prefix="pn", dir="/tmp")), Trouble(options.losses, options.seed)
    wanted = Inline().run(many_drive.line(str(base / "wanted"), str(base / "journal"), UNITS, 0)).manifest
    batches = sum(1 for rows in wanted.parts()["rows"].to_pylist() if rows)
    runs, redone, drivers, started = 0, [], 0, time.monotonic()
    with machines(base / "ray", NODES) as nodes:
        while trouble.left:
            folder = base / f"run{runs}"
            folder.mkdir()
            drivers += disturbed(nodes, folder, trouble)
            found = existing(str(folder / "out"))
            assert read_table(found.uri).equals(read_table(wanted.uri))
            assert found.parts().select(COLUMNS).equals(wanted.parts().select(COLUMNS))
            redone.append(lines(folder / "journal") - batches)
            runs += 1
            print(f"{runs} runs, losses {dict(trouble.done)}, batches done twice {redone}", flush=True)
    measuring.write(
        "many_nodes",
        {
            "nodes": NODES,
            "losses": dict(trouble.done),
            "datasets": runs,
            "datasets_equal_row_for_row": runs,
            "drivers": drivers,
            "batches_a_dataset": batches,
            "batches_done_twice": redone,
            "seconds": time.monotonic() - started,
            "seed": options.seed,
        },
    )


if __name__ == "__main__":
    main()
