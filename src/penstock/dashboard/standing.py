"""How a dataset stands, as far as its files tell. A run leaves no sign of life but its units, so that is said."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from penstock.dashboard.activity import Activity
from penstock.report.words import count, duration

__all__ = ["Standing", "State", "standing"]

_DOUBT = "A run at a very long unit, or at a commit that packs large files, looks the same."


class State(Enum):
    """What can be said of the last run."""

    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    UNCOMMITTED = "never committed"


@dataclass(frozen=True)
class Standing:
    """The state, what it is judged by, and what may be wrong with that."""

    state: State
    why: str
    doubt: str = ""


def standing(version: int | None, ended: float | None, activity: Activity, now: float) -> Standing:
    """Judge by what happened last.

    Args:
        version: of the newest manifest; None when nothing was committed.
        ended: when the last run that committed ended; None when that is not known.
        activity: of the ledger.
        now: seconds since 1970.
    """
    last = activity.last
    if last is None or (ended is not None and ended >= last):
        return _quiet(version, ended, activity, now)
    silence = max(now - last, 0.0)
    ago = f"last unit {_ago(silence)} ago"
    if silence <= activity.patience_seconds:
        return Standing(State.RUNNING, ago)
    waiting = f"{ago}; {count(activity.units, 'finished unit')} wait for a commit, the same command goes on from there"
    return Standing(State.UNCOMMITTED if version is None else State.INTERRUPTED, waiting, _DOUBT)


def _quiet(version: int | None, ended: float | None, activity: Activity, now: float) -> Standing:
    if version is None:
        return Standing(State.UNCOMMITTED, "no unit is finished yet", _DOUBT)
    when = f"committed {_ago(max(now - ended, 0.0))} ago" if ended is not None else "committed"
    left = activity.units + activity.others
    return Standing(State.FINISHED, f"{when}; {count(left, 'older record')} left in the ledger" if left else when)


def _ago(seconds: float) -> str:
    """Without what nobody needs to know of a time that goes on."""
    return f"{seconds:.0f} s" if seconds < 60 else duration(seconds)
