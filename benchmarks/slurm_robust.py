"""What survives on a real Slurm, counted: kills of the driver, outages, calls of squeue, the demo's arrows.

These are the tests of `tests/real/slurm` and `tests/story` as figures: each part runs their functions, which also
assert, so a part that does not hold says why in its line. Test clusters on this machine: four nodes, with accounting
two, sockets and SSH on loopback.
`make bench NAME=slurm_robust`; `--jobs 20 --kills 2 --down-seconds 5 --counts 1,4 --runners` for a try.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import measuring

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/real/slurm"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/story"))
import test_cluster as story
import test_slurm_counts as counts
import test_slurm_kills as kills
import test_slurm_outages as outages
from slurm_site import Site, running

WATCHED_SECONDS = 10.0


def told(name: str, way: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    """What a part has found, how long it took, and whether all that it asserts holds."""
    started = time.monotonic()
    try:
        found: dict[str, Any] = {"reached": True, **(way() or {})}
    except Exception as error:
        found = {"reached": False, "reason": f"{type(error).__name__}: {error}"[:2000]}
    found["seconds"] = round(time.monotonic() - started, 1)
    print(f"{name}: {found}", flush=True)
    return found


def killed(site: Site, folder: Path, jobs: int, times: int) -> dict[str, Any]:
    found = kills.killed_again_and_again(site, folder, jobs, times)
    counted = {name: value for name, value in found.items() if name != "kills"}
    return {**found, "reached": set(counted.values()) == {jobs}}


# --- outages ---------------------------------------------------------------------------------------------


def counted(site: Site, folder: Path, way: Callable[[], object]) -> dict[str, Any]:
    """The part asserts that no job was lost, doubled or ended wrongly; here is how many there were."""
    folder.mkdir()
    with site.reached():
        way()
    natives = site.natives(folder)
    return {"keys_and_attempts": len({native.name for native in natives}), "native_ids": len(natives)}


def all_outages(site: Site, accounting: Site, root: Path, seconds: float) -> dict[str, dict[str, Any]]:
    cluster = site.cluster()
    lost = outages.test_connections_are_lost_again_and_again
    timed_out = outages.test_an_sbatch_that_times_out_though_the_job_was_taken
    hangs = outages.test_an_sbatch_that_hangs_is_not_a_lost_job
    dies = outages.test_a_node_dies_and_the_job_runs_again_on_another
    ways: dict[str, tuple[Site, Callable[[Path], object]]] = {
        f"slurmctld down {seconds:g} s": (site, lambda at: outages.outage(site, at, "slurmctld", seconds)),
        "slurmctld down 5 s, accounting": (accounting, lambda at: outages.outage(accounting, at, "slurmctld", 5)),
        "slurmdbd down 5 s": (accounting, lambda at: outages.outage(accounting, at, "slurmdbd", 5)),
        "sshd killed, away 5 s": (site, lambda at: outages.outage(site, at, "sshd", 5)),
        "munged killed, away 5 s": (site, lambda at: outages.outage(site, at, "munged", 5)),
        "ControlMasters killed every 3 s": (site, lambda at: lost(site, cluster, at, "kill_masters")),
        "connections cut every 3 s": (site, lambda at: lost(site, cluster, at, "cut_connections")),
        "sbatch says timed out, job taken": (site, lambda at: timed_out(site, at)),
        "the same with accounting": (accounting, lambda at: timed_out(accounting, at)),
        "sbatch hangs, 5 submit one job": (site, lambda at: hangs(site, at)),
        "a node is killed, one retry": (site, lambda at: dies(site, cluster, at)),
    }
    return {
        name: told(name, lambda on=on, way=way, at=root / f"outage{number}": counted(on, at, lambda: way(at)))
        for number, (name, (on, way)) in enumerate(ways.items())
    }


# --- calls of squeue, arrows -----------------------------------------------------------------------------


def watched(site: Site, folder: Path, count: int) -> dict[str, Any]:
    with site.reached():
        calls, intervals = counts.watched(site, folder, count, WATCHED_SECONDS)
    return {"squeue_calls": calls, "intervals": round(intervals, 1), "reached": 1 <= calls <= intervals + 2}


def arrows(runner: str) -> dict[str, Any]:
    with story.world() as undisturbed, story.world() as one:
        story.finished(undisturbed.started())
        at = story.kill_at_every_arrow(one, "--runner", runner)
        story.finished(one.started("--runner", runner))
        story.check_equal(undisturbed.fetched(), one.fetched())
        return {"killed_at": at, "equal": True, "jobs": len(one.jobs())}


def measured(options: argparse.Namespace, root: Path, numbers: Iterable[int]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with running() as site, running("--accounting", "--nodes", "2") as accounting:
        result["squeue_calls_while_jobs_run"] = {
            str(number): told(f"{number} jobs", lambda number=number: watched(site, root / f"watched{number}", number))
            for number in numbers
        }
        result["outages"] = all_outages(site, accounting, root, options.down_seconds)
    with running("--forget-seconds", "2", "--array-size", "11") as site:
        (root / "kills").mkdir()
        result["driver_killed"] = told("kills", lambda: killed(site, root / "kills", options.jobs, options.kills))
    result["demo_killed_at_its_arrows"] = {
        runner: told(f"arrows, {runner}", lambda runner=runner: arrows(runner)) for runner in options.runners
    }
    return result


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--jobs", type=int, default=kills.JOBS)
    arguments.add_argument("--kills", type=int, default=kills.KILLS)
    arguments.add_argument("--down-seconds", type=float, default=60)
    arguments.add_argument("--counts", default="1,24,200")
    arguments.add_argument("--runners", nargs="*", default=["ray"], help="under which the demo is killed")
    options = arguments.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        result = measured(options, Path(name), map(int, options.counts.split(",")))
    measuring.write("slurm_robust", {**result, "seconds": round(time.monotonic() - started)})


if __name__ == "__main__":
    main()
