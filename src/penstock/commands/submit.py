"""``penstock submit FILE --cluster 'slurm ...'``: the whole run, Ray and all, inside one Slurm job."""

from __future__ import annotations

import time
import uuid
from dataclasses import fields, replace
from typing import Annotated, Any, cast

import typer

from penstock.clusters.allocation import script
from penstock.commands.clusters import cluster_of
from penstock.commands.telling import Changes, File, err, out, told
from penstock.core import plugins, spec
from penstock.core.nouns import Cluster, Job
from penstock.core.storage import Posix, join, store_of
from penstock.errors import SpecError
from penstock.solvers.work import job_key, run_job

__all__ = ["allocated", "job_of", "submit"]

_FILE, _SCRIPT = "pipeline.toml", "allocation.sh"


def submit(
    file: File,
    cluster: Annotated[str, typer.Option(help="Where, and how many nodes: 'slurm host=hpc nodes=4 folder=/fsx/jobs'.")],
    changes: Changes = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end; a lost node or a time limit is gone on from.")
    ] = False,
    start_seconds: Annotated[int, typer.Option(help="How long Ray may take to start on all nodes.")] = 180,
) -> None:
    """Run the pipelines of a file by a Ray of their own on the nodes of one Slurm job.

    The same file submitted again while its job waits or runs is that same job.
    """
    with told():
        found = spec.load(file, dict(change.partition("=")[::2] for change in changes or ()))
        place = allocated(cluster_of(cluster))
        for uri in _unseen(found, place):
            err.print(f"[yellow]warning:[/] {uri} is a path; the cluster must see it too")
        job, native_id = _submitted(found, file.stem, place, start_seconds)
        out.print(f"job {native_id}, its files are below {job.folder}")
        out.print(f"  penstock jobs logs {native_id} --follow --cluster {cluster!r}")
        if wait:
            run_job(place, job)
            out.print("it has ended well")


def allocated(cluster: Cluster) -> Cluster:
    """*cluster* as one that gives whole nodes to a program of one task, with one slot on each for Ray.

    Raises:
        SpecError: it has no nodes, or no folder that both sides see.
    """
    mine: Any = cluster
    if not {"nodes", "lines", "host"} <= {field.name for field in fields(mine)}:
        raise SpecError("submit needs a Slurm cluster; write --cluster 'slurm host=hpc nodes=2 folder=/shared/jobs'")
    if not mine.folder:
        raise SpecError("submit needs 'folder', a place that this machine and the cluster see: a path, or s3://")
    nodes = max(1, mine.nodes)
    lines = (*mine.lines, f"--ntasks={nodes}", "--ntasks-per-node=1")
    return cast("Cluster", replace(mine, nodes=nodes, tasks=1, launcher="", lines=lines))


def _unseen(found: spec.Spec, cluster: Any) -> list[str]:
    """Addresses on this machine that a cluster elsewhere may not know."""
    uris = [part.uri for pipeline in found.pipelines for part in (pipeline.source, pipeline.sink)]
    return [uri for uri in dict.fromkeys(uris) if cluster.host and isinstance(store_of(uri), Posix)]


def _submitted(found: spec.Spec, name: str, cluster: Cluster, start_seconds: int) -> tuple[Job, str]:
    """The job, found again while it waits or runs, else a new one."""
    text = spec.dumps(replace(found, runner=plugins.load("runners", "ray")()))
    root = join(cluster.folder, f"{name}-{job_key(text)[:12]}")
    job = job_of(root, text, name, script(_FILE, cluster.python, start_seconds))
    native_id = cluster.submit(job)
    if cluster.poll([native_id])[native_id].state.final:
        store_of(root).create(_after(root, job.folder.rpartition("/")[2]), _stamp())
        job = job_of(root, text, name, script(_FILE, cluster.python, start_seconds))
        native_id = cluster.submit(job)
    return job, native_id


def job_of(root: str, text: str, name: str, allocation: str) -> Job:
    """The job that runs the pipeline file *text*; what it needs is put below *root* first."""
    store = store_of(root)
    folder = join(root, _latest(root))
    given = {_FILE: text, _SCRIPT: allocation}
    for file, data in given.items():
        store.replace(join(folder, "given", file), data.encode())
    store.replace(join(folder, "job.json"), b"{}")
    inputs = tuple((join(folder, "given", file), file) for file in given)
    results = ("report*.html", "ray-*.log")
    return Job(job_key(folder, text), ("bash", _SCRIPT), folder, name, inputs=inputs, results=results)


def _latest(root: str) -> str:
    """The name of the last job: each has at most one after it, whoever else hands the file in at the same time."""
    store = store_of(root)
    store.create(join(root, "current"), _stamp())
    name, after = "", store.read(join(root, "current"))
    while after:
        name = after.decode()
        after = store.read(_after(root, name))
    return name


def _after(root: str, name: str) -> str:
    return join(root, f"after-{name}")


def _stamp() -> bytes:
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:6]}".encode()
