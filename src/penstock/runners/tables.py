"""Tables in the memory of many nodes: Ray actors that hold shards, and a client that asks them.

What travels is little: ids are given once for thousands of look-ups, rows that repeat are asked for once, and pooling
happens beside the rows, so that a bag costs one sum from each actor that holds rows of it.

::

    with Ray().session(), serving("s3://bucket/table", actors=4) as client:
        client.pooled(ids, offsets)       # and every `lookup` stage of this cluster asks the actors too

An actor that is lost is started again elsewhere by Ray, maps its shards, and the calls that it owed are made again;
nobody sees more than a pause.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from penstock.core.nouns import Pipeline
from penstock.errors import RunError
from penstock.stages.lookup import Lookup
from penstock.tables.client import Client, Local, bringing, combining
from penstock.tables.layout import Floats, Table
from penstock.tables.pooling import Mode, averaged, checked, faster, summed
from penstock.tables.schemes import Ints, places

__all__ = ["Actors", "find", "held", "serving"]

_NAMESPACE = "penstock"
_ROWS_A_CALL = 1 << 16
_WAIT_SECONDS = 600.0


class _Holder:
    """In an actor: the shards that it owns, mapped when they are asked for."""

    def __init__(self, uri: str, version: int, owners: int) -> None:
        faster()
        self._local, self._owners = Local(Table.at(uri, version)), owners

    def owners(self) -> int:
        """How many actors hold the table."""
        return self._owners

    def pid(self) -> int:
        """The process that holds the shards now."""
        return os.getpid()

    def stored(self, rows: Ints) -> npt.NDArray[Any]:
        """Rows as they are stored, so that no more travels than lies on disk."""
        return self._local.stored(rows)

    def sums(self, rows: Ints, offsets: Ints) -> Floats:
        """The sum of each bag's rows, ``"bag dim"``."""
        return self._local.sums(rows, offsets)


class Actors:
    """Asks the actors that hold a table. Answers of `lookup` are those of the local client, bit for bit.

    Sums are added up actor by actor, in their order, so `pooled` differs from the local client in the last bits, and
    gives the same bits each time.
    """

    def __init__(self, table: Table, holders: Sequence[Any]) -> None:
        self._table, self._holders = table, holders

    @property
    def table(self) -> Table:
        """The table that is read."""
        return self._table

    def lookup(self, ids: npt.ArrayLike) -> Floats:
        """The vectors of *ids*, ``"id dim"``."""
        layout = self._table.layout
        found = np.empty((np.size(ids), layout.dim), np.float32)
        combining(layout.scheme, self._gather)(places(layout.scheme, ids), found)
        return found

    def _gather(self, rows: Ints, out: Floats) -> None:
        """Each row is asked for once, of its owner."""
        fresh, back = np.unique(rows, return_inverse=True)
        calls = list(self._calls(fresh))
        answers = _got([self._holders[owner].stored.remote(fresh[at]) for owner, at in calls])
        vectors, place, start = np.empty((len(fresh), out.shape[1]), np.float32), np.empty_like(fresh), 0
        for (_, at), answer in zip(calls, answers, strict=True):
            self._table.layout.decode(answer, vectors[start : start + len(at)])
            place[at] = np.arange(start, start + len(at))
            start += len(at)
        vectors.take(place[back], 0, out=out, mode="clip")

    def _calls(self, rows: Ints) -> Iterator[tuple[int, Ints]]:
        """Owners, and the places in *rows* of what they are asked for, at most so many a call."""
        for owner, at in enumerate(self._dealt(rows)):
            for start in range(0, len(at), _ROWS_A_CALL):
                yield owner, at[start : start + _ROWS_A_CALL]

    def _dealt(self, rows: Ints) -> list[Ints]:
        owners = self._table.owner(rows, len(self._holders))
        return [np.flatnonzero(owners == owner) for owner in range(len(self._holders))]

    def pooled(self, ids: npt.ArrayLike, offsets: Ints, mode: Mode = "mean") -> Floats:
        """The vectors of bags of *ids*, ``"bag dim"``; rows are summed where they are."""
        layout = self._table.layout
        rows = places(layout.scheme, ids)
        offsets = checked(offsets, len(rows))
        if layout.scheme.combine == "product":  # its factors may have different owners
            return averaged(summed(combining(layout.scheme, self._gather), rows, offsets, layout.dim), offsets, mode)
        found = np.zeros((len(offsets) - 1, layout.dim), np.float32)
        flat, cuts = rows.reshape(-1), offsets * rows.shape[1]
        for first, last in _spans(cuts):
            self._add_sums(flat[cuts[first] : cuts[last]], cuts[first : last + 1] - cuts[first], found[first:last])
        return averaged(found, offsets, mode)

    def _add_sums(self, rows: Ints, offsets: Ints, found: Floats) -> None:
        """Add to *found*, ``"bag dim"``, what each owner has of each bag."""
        asked = [_of_owner(at, offsets) for at in self._dealt(rows)]
        futures = [
            holder.sums.remote(rows[part.at], part.offsets)
            for holder, part in zip(self._holders, asked, strict=True)
            if len(part.at)
        ]
        parts = [part for part in asked if len(part.at)]
        for part, sums in zip(parts, _got(futures), strict=True):
            found[part.bags] += sums

    def close(self) -> None:
        """Nothing: the actors stay for others."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Share:
    """What one owner has of some bags: places of the rows, which bags, and their offsets there."""

    at: Ints
    bags: Ints
    offsets: Ints


def _of_owner(at: Ints, offsets: Ints) -> _Share:
    cuts = np.searchsorted(at, offsets)
    bags = np.flatnonzero(np.diff(cuts))
    return _Share(at, bags, np.append(cuts[bags], len(at)))


def _spans(offsets: Ints) -> Iterator[tuple[int, int]]:
    """Runs of neighbouring bags of about as many rows as a call takes, at least one bag each."""
    first = 0
    while first < len(offsets) - 1:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _ROWS_A_CALL, "right")) - 1)
        yield first, last
        first = last


def _got(futures: list[Any]) -> list[Any]:
    import ray

    try:
        return list(ray.get(futures, timeout=_WAIT_SECONDS))
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        cause = str(error).strip().splitlines()[0]
        raise RunError(
            f"the actors of a table do not answer: {cause}; is the cluster up, with room for them?"
        ) from error


# --- starting and finding --------------------------------------------------------------------------------


@contextmanager
def serving(uri: str, actors: int, cpus: float = 0.0, memory_bytes: int = 0) -> Iterator[Client]:
    """Actors hold the newest version of the table at *uri* as long as this lasts; gives a client.

    Inside, `penstock.tables.client.open_table` gives such a client here, and in the workers of this cluster.

    Args:
        uri: the table's root, which every node must reach.
        actors: how many, spread over the nodes.
        cpus: that Ray sets aside for each; 0 lets them run beside anything, since they work only when asked.
        memory_bytes: that Ray sets aside for each. Mapped rows need none of their own.
    """
    import ray

    table = Table.at(uri)
    options = {
        "namespace": _NAMESPACE,
        "num_cpus": cpus,
        "memory": memory_bytes or None,
        "scheduling_strategy": "SPREAD",
        "max_restarts": -1,
        "max_task_retries": -1,
    }
    remote = ray.remote(_Holder)
    version = table.manifest.version
    holders = [
        remote.options(**options, name=_name(table, at)).remote(table.uri, version, actors) for at in range(actors)
    ]
    try:
        _got([holder.owners.remote() for holder in holders])
        with bringing(lambda asked: Actors(table, holders) if asked.rstrip("/") == table.uri else None):
            yield Actors(table, holders)
    finally:
        for holder in holders:
            ray.kill(holder)


@contextmanager
def held(pipeline: Pipeline, actors: int) -> Iterator[None]:
    """Inside, so many *actors* hold each table that a `lookup` step of *pipeline* reads; with 0 nobody does."""
    uris = {step.stage.table for step in pipeline.steps if isinstance(step.stage, Lookup)}
    with ExitStack() as stack:
        for uri in sorted(uris) if actors else ():
            stack.enter_context(serving(uri, actors))
        yield


def find(uri: str) -> Client | None:
    """A client of the actors that hold the newest version of the table at *uri*; None where nobody serves it."""
    import ray

    if not ray.is_initialized():
        return None
    table = Table.at(uri)
    try:
        first = ray.get_actor(_name(table, 0), _NAMESPACE)
        count = ray.get(first.owners.options(max_task_retries=0).remote(), timeout=_WAIT_SECONDS)
        return Actors(table, [first, *(ray.get_actor(_name(table, at), _NAMESPACE) for at in range(1, count))])
    except (ValueError, ray.exceptions.RayActorError):  # no actor is called so, or no longer
        return None


def _name(table: Table, at: int) -> str:
    return f"table-{table.manifest.sha256[:32]}-{at}"
