"""What an item costs on Slurm, from the submission until all are known to have ended: items that do nothing at all.

Penstock's array over SSH beside the same array by a bare sbatch, one bare sbatch for each item, and submitit's array,
whose items are Python functions; so Penstock's items are once `true` and once a Python that does nothing. All on one
test cluster (four fake nodes on this machine, with accounting, since submitit asks sacct), so what is told apart is
what each way adds to what Slurm itself takes here. Calls of Slurm's commands are counted by wrappers on PATH.
`make bench NAME=slurm_overhead`; arguments: items of the long ways, items of the others, turns.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import measuring

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/real/slurm"))
from slurm_site import Site, running

from penstock.core.nouns import Job, JobState

MANY, FEW, TURNS = 1000, 100, 2
COUNTED = ("sbatch", "squeue", "sacct", "scontrol")
NODES, CPUS = 4, 4


def penstock(site: Site, folder: Path, command: tuple[str, ...], items: int) -> None:
    cluster = site.cluster(poll_seconds=1.0)
    native_id = cluster.submit(Job(str(folder), command, str(folder), "bench", items))
    while not (status := cluster.poll([native_id])[native_id]).state.final:
        time.sleep(0.1)
    if status.state is not JobState.DONE:
        raise SystemExit(f"the array failed: {status}")


def sbatch(*more: str) -> None:
    command = ["sbatch", "--parsable", "--mem=20M", "--output=/dev/null", "--job-name=bare", *more, "--wrap=true"]
    subprocess.run(command, check=True, capture_output=True)


def until_idle() -> None:
    """As a loop in a shell script would wait."""
    while subprocess.run(["squeue", "-h", "-n", "bare"], check=True, capture_output=True).stdout:
        time.sleep(0.5)


def bare_array(items: int) -> None:
    sbatch(f"--array=0-{items - 1}")
    until_idle()


def bare_loop(items: int) -> None:
    for _ in range(items):
        sbatch()
    until_idle()


def with_submitit(folder: Path, items: int) -> None:
    import submitit

    executor = submitit.AutoExecutor(str(folder), cluster="slurm")
    executor.update_parameters(timeout_min=10, slurm_mem="20M", slurm_array_parallelism=NODES * CPUS, name="submitit")
    jobs = executor.map_array(abs, range(items))
    if [job.result() for job in jobs] != list(range(items)):
        raise SystemExit("submitit's results are wrong")


def counted(site: Site, way: Callable[[], None], items: int, calls: dict[str, int]) -> float:
    """Milliseconds for an item; *calls* gets how often Slurm's commands were called."""
    with ExitStack() as stack:
        counters = {name: stack.enter_context(site.counted(name)) for name in COUNTED}
        seconds = measuring.seconds(way)
        calls.update({name: count() for name, count in counters.items()})
    return seconds / items * 1000


def main(many: int = MANY, few: int = FEW, turns: int = TURNS) -> None:
    with tempfile.TemporaryDirectory() as name, running("--accounting", "--nodes", f"{NODES}") as site:
        turn = iter(range(10_000))

        def fresh() -> Path:
            return Path(name) / str(next(turn))

        python = (sys.executable, "-I", "-c", "pass")
        ways: dict[str, tuple[int, Callable[[], None]]] = {
            f"penstock over SSH, array of {many} x true": (many, lambda: penstock(site, fresh(), ("true",), many)),
            f"bare sbatch, array of {many} x true": (many, lambda: bare_array(many)),
            f"bare sbatch, {few} calls, x true": (few, lambda: bare_loop(few)),
            f"penstock over SSH, array of {few} x python": (few, lambda: penstock(site, fresh(), python, few)),
            f"submitit, array of {few} x function": (few, lambda: with_submitit(fresh(), few)),
        }
        calls: dict[str, dict[str, int]] = {way: {} for way in ways}
        with site.reached(local=True):
            found = measuring.turns(
                {
                    way: lambda items=items, run=run, way=way: counted(site, run, items, calls[way])
                    for way, (items, run) in ways.items()
                },
                turns,
            )
    spread = {way: measuring.spread(values) for way, values in found.items()}
    told = {"turns": turns, "nodes": NODES, "cpus_a_node": CPUS, "ms_an_item": spread, "calls_in_the_last_turn": calls}
    measuring.write("slurm_overhead", told)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
