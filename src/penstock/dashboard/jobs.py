"""The jobs of batch schedulers, as `penstock jobs` knows them: state, and the end of what they print."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from penstock.core.nouns import Cluster, Listed, Lists
from penstock.errors import PenstockError

__all__ = ["STREAMS", "Asked", "Known", "Scheduler", "asked", "tail"]

STREAMS = ("stdout", "stderr")
_MOST_JOBS = 200
_MOST_READS = 16  # of a million bytes each
_TAIL_LINES = 200
_TAIL_CHARACTERS = 40_000


@dataclass(frozen=True)
class Scheduler:
    """A cluster, and what it is called."""

    words: str
    cluster: Cluster


@dataclass(frozen=True)
class Known:
    """A job, and the key by which a page asks for it."""

    key: str
    scheduler: Scheduler
    job: Listed


@dataclass(frozen=True)
class Asked:
    """What the clusters have answered: jobs, the newest first, and troubles."""

    jobs: Sequence[Known]
    troubles: Sequence[str]
    limit: str = ""


def asked(schedulers: Sequence[Scheduler]) -> Asked:
    """Ask each cluster for its jobs; one that cannot answer is a trouble, not an error."""
    found: list[Known] = []
    troubles: list[str] = []
    for scheduler in schedulers:
        try:
            found += _jobs(scheduler)
        except PenstockError as error:
            troubles.append(f"{scheduler.words}: {error}")
    found.sort(key=lambda known: -known.job.since)
    limit = f"Only the newest {_MOST_JOBS} of {len(found):,} are shown." if len(found) > _MOST_JOBS else ""
    return Asked(found[:_MOST_JOBS], troubles, limit)


def _jobs(scheduler: Scheduler) -> Iterator[Known]:
    cluster = scheduler.cluster
    if not isinstance(cluster, Lists):
        return
    for job in cluster.jobs():
        key = hashlib.sha256(f"{scheduler.words} {job.id}".encode()).hexdigest()[:16]
        yield Known(key, scheduler, job)


def tail(known: Known, stream: str, item: int) -> str:
    """The last lines of what a job, or one *item* of it, has printed so far. Raises `JobError`."""
    cluster, name = known.scheduler.cluster, stream if known.job.items == 1 else f"{stream}.{item}"
    assert isinstance(cluster, Lists)  # it has listed this job
    text, offset = "", 0
    for _ in range(_MOST_READS):
        more, after = cluster.log(known.job.id, name, offset)
        text = (text + more)[-_TAIL_CHARACTERS:]
        if after == offset:
            break
        offset = after
    return "\n".join(text.splitlines()[-_TAIL_LINES:])
