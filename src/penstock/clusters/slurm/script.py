"""The text of a batch script: what the job asks of Slurm, what it is, and the wrapper that is the same for all.

The exit record that the wrapper leaves, JSON in two lines, beside what `penstock.core.nouns.Job` promises::

    {"attempt": from 1, "job": Slurm's id, "terminated": ended from outside, "warned": of the time limit,
     "results": [{"name": ..., "bytes": ..., "sha256": ...}], where it ended well,
     "tail": the last lines of stderr, in ASCII}

Polls read its first line alone, which ends before ``results``. Results with ``{item}`` in their name are those of the
item; of others in a folder that several items share nothing is noted, since nobody knows whose they are.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.core.nouns import Job

if TYPE_CHECKING:
    from penstock.clusters.slurm import Slurm

__all__ = ["batch", "folder_of", "label", "requests", "shipped"]

_LAUNCH = "auto"
"""Leave the choice to the wrapper: mpiexec where the node has one, else srun with PMIx."""


def shipped(name: str) -> str:
    """The text of one of the scripts beside this file."""
    return (Path(__file__).parent / "scripts" / f"{name}.sh").read_text()


def batch(cluster: Slurm, job: Job) -> str:
    """The script that runs *job*; the same for every attempt."""
    asked = "".join(f"#SBATCH {line}\n" for line in requests(cluster))
    return f"#!/bin/bash\n# A job of Penstock: {label(job)}\n{asked}\n{_given(cluster, job)}\n{shipped('job')}"


def requests(cluster: Slurm) -> list[str]:
    """The options of sbatch; free lines come last, so that they win."""
    options = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "nodes": cluster.nodes,
        "ntasks": cluster.tasks,
        "cpus-per-task": cluster.cpus_per_task,
        "mem": cluster.memory,
        "gres": cluster.gres,
        "time": _minutes(cluster),
        "signal": f"B:USR1@{cluster.warn_seconds}" if cluster.warn_seconds else "",
        "dependency": re.sub(r"(?<=\d)\.[0-9a-f]{8}\b", "", cluster.dependency),  # ids of ours or of Slurm's
    }
    asked = [f"--{name}={value}" for name, value in options.items() if value]
    return ["--no-requeue", "--kill-on-invalid-dep=yes", *asked, *cluster.lines]


def _minutes(cluster: Slurm) -> int:
    """Slurm counts whole ones."""
    return max(1, math.ceil(cluster.time_minutes)) if cluster.time_minutes else 0


def label(job: Job) -> str:
    """What people see in squeue, of the characters that names of jobs may have everywhere."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", job.name).strip("-.")[:60] or "job"


def folder_of(job: Job) -> str:
    """The job's folder as the cluster's shells take it."""
    return job.folder.removeprefix("file://").rstrip("/")


def _given(cluster: Slurm, job: Job) -> str:
    """What the wrapper has to know of this job."""
    environment = [f"export {name}={shlex.quote(value)}" for name, value in sorted(job.environment.items())]
    return "\n".join(
        [
            f"folder={shlex.quote(folder_of(job))}",
            f'workspace="{_expanded(cluster.workspace)}"',
            f"items={job.items} cpus={cluster.cpus_per_task} minutes={_minutes(cluster)}",
            f"python={shlex.quote(cluster.python)}",
            _list("program", job.command),
            _list("launch", _launcher(cluster)),
            _list("copy", cluster.copy),
            _list("inputs", [word for pair in job.inputs for word in pair]),
            _list("results", job.results),
            _function("environment", environment),
            _function("prologue", cluster.prologue),
        ]
    )


def _list(name: str, words: Iterable[str]) -> str:
    return f"{name}=({' '.join(shlex.quote(word) for word in words)})"


def _function(name: str, lines: Iterable[str]) -> str:
    return "\n".join([f"{name}() {{", *lines, "  :", "}"])


def _launcher(cluster: Slurm) -> list[str]:
    """How ranks are started; a program of one task needs nobody to start it."""
    if cluster.launcher:
        return shlex.split(cluster.launcher)
    return [_LAUNCH] if cluster.tasks > 1 else []


def _expanded(path: str) -> str:
    """A path in which the node's shell puts its variables in place."""
    return "$HOME" + path[1:] if path == "~" or path.startswith("~/") else path
