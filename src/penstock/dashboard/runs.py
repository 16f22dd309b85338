"""The runs that committed, by ``runs/*.json``, and the story of one by its table, as far as the limits go."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from penstock.core.run import PLANNED
from penstock.core.storage import join, store_of
from penstock.dashboard.tables import opened
from penstock.report.story import Run

__all__ = ["Told", "ended", "names", "planned", "told"]

_MOST_LINES = 1_000_000
_STEPS = 2  # a read and a write, at least
_COLUMNS = ["step", "seconds", "waited_seconds", "rows_in", "rows_out", "rows_bad", "worker", "finished", "rss_bytes"]


@dataclass(frozen=True)
class Told:
    """A run that was recorded.

    Attributes:
        name: address without suffix.
        facts: what its JSON says; see `penstock.report.story.Run`.
    """

    name: str
    facts: Mapping[str, Any] = field(compare=False)

    def worked(self) -> bool:
        """Whether it carried a unit."""
        return bool(self.facts["units"] > self.facts["skipped"])

    @property
    def part(self) -> str:
        """What is left out of a run that is too long, as a sentence."""
        many = self.facts["units"] * _STEPS > _MOST_LINES
        return "Only the first million lines of the run's table are drawn." if many else ""

    def run(self) -> Run:
        """With its table; of a table that is too long its first lines."""
        with opened(f"{self.name}.parquet") as file:
            groups = lines = 0
            while groups < file.num_row_groups and lines < _MOST_LINES:
                lines += file.metadata.row_group(groups).num_rows
                groups += 1
            table = file.read_row_groups(range(groups), columns=_COLUMNS)
        table = table.append_column("unit", pa.repeat("", table.num_rows))  # is counted alone
        return Run(self.facts, table.filter(pc.greater_equal(table["finished"], self.facts["started"])))


def names(root: str) -> list[str]:
    """The runs of a dataset, the newest first, as addresses without suffix; their names begin with the time."""
    found = (entry.uri for entry in store_of(root).below(join(root, "runs")))
    return sorted((uri.removesuffix(".json") for uri in found if uri.endswith(".json")), reverse=True)


def told(found: Sequence[str], until: Callable[[Told], bool] = lambda run: False) -> Iterator[Told]:
    """What their JSON says, up to the first of which *until* holds; one that cannot be understood is left out."""
    for name in found:
        facts = _facts(f"{name}.json")
        if facts is None:
            continue
        run = Told(name, facts)
        yield run
        if until(run):
            return


_NUMBERS = ("skipped", "started", "seconds", "units", "rows", "bad_rows", "manifest")


def _facts(name: str) -> Mapping[str, Any] | None:
    facts = _read(name)
    numbers = all(isinstance(facts.get(key), int | float) for key in _NUMBERS)
    return {"runner": "unknown", **facts} if numbers else None


def _read(name: str) -> Mapping[str, Any]:
    """What a file of JSON says; nothing where there is none, or it cannot be understood."""
    try:
        facts = json.loads(store_of(name).read(name) or b"{}")
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def planned(root: str, fingerprint: str) -> int | None:
    """How many units the run with that *fingerprint* has in all, or None where that is not known.

    Nothing is read for an empty *fingerprint*: where no unit waits, nothing goes on.
    """
    facts = _read(join(root, PLANNED)) if fingerprint else {}
    units, whose = facts.get("units"), str(facts.get("fingerprint", ""))
    return max(units, 0) if isinstance(units, int) and whose.startswith(fingerprint) else None


def ended(run: Told | None) -> float | None:
    """When a run ended, seconds since 1970."""
    return run.facts["started"] + run.facts["seconds"] if run else None
