"""What Slurm's words mean, and how a job stands when Slurm's word and the exit records are put together.

Source: squeue(1) and sacct(1), "JOB STATE CODES", of Slurm 22.05 to 25.05.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.core.nouns import JobState, Status

__all__ = ["LOST_SECONDS", "STATES", "Facts", "Meaning", "doubtful", "meaning", "read", "refusal", "standing"]

_CONTINUE = 99
"""Exit status of a program that was warned of its time limit, has kept its state, and wants to go on."""

LOST_SECONDS = 120.0
"""So long an exit record may take to be seen from the login node (NFS keeps what it knows of a folder for 60 s)."""
_SETTLE_SECONDS = 10.0
"""So long Slurm's state and the exit record may contradict each other while a job ends."""
_COPY_FAILED = 74


@dataclass(frozen=True)
class Meaning:
    """What one of Slurm's states means: ours, whether its cause passes, and how to say it."""

    state: JobState
    passing: bool = False
    words: str = ""


_WAITS, _RUNS = Meaning(JobState.PENDING), Meaning(JobState.RUNNING)


def _bad(words: str) -> Meaning:
    return Meaning(JobState.FAILED, False, words)


def _passing(words: str) -> Meaning:
    return Meaning(JobState.FAILED, True, words)


STATES: Mapping[str, tuple[str, Meaning]] = {
    "BOOT_FAIL": ("BF", _passing("its node did not boot")),
    "CANCELLED": ("CA", Meaning(JobState.CANCELLED)),
    "COMPLETED": ("CD", Meaning(JobState.DONE)),
    "COMPLETING": ("CG", _RUNS),
    "CONFIGURING": ("CF", _WAITS),
    "DEADLINE": ("DL", _bad("it was ended at its deadline")),
    "EXPEDITING": ("EX", _WAITS),
    "FAILED": ("F", _bad("it failed")),
    "LAUNCH_FAILED": ("LF", _passing("it could not be launched on its node")),
    "NODE_FAIL": ("NF", _passing("a node of it failed")),
    "OUT_OF_MEMORY": ("OOM", _bad("it needed more memory than it had asked for; raise memory")),
    "PENDING": ("PD", _WAITS),
    "POWER_UP_NODE": ("PN", _WAITS),
    "PREEMPTED": ("PR", _passing("it was preempted")),
    "RECONFIG_FAIL": ("RC", _passing("its node could not be configured")),
    "REQUEUED": ("RQ", _WAITS),
    "REQUEUE_FED": ("RF", _WAITS),
    "REQUEUE_HOLD": ("RH", _WAITS),
    "RESIZING": ("RS", _RUNS),
    "RESV_DEL_HOLD": ("RD", _WAITS),
    "REVOKED": ("RV", _RUNS),  # a sibling on another cluster of the federation runs
    "RUNNING": ("R", _RUNS),
    "SIGNALING": ("SI", _RUNS),
    "SPECIAL_EXIT": ("SE", _WAITS),
    "STAGE_OUT": ("SO", _RUNS),
    "STOPPED": ("ST", _RUNS),
    "SUSPENDED": ("S", _RUNS),
    "TIMEOUT": ("TO", _bad("it was ended at its time limit")),
    "UPDATE_DB": ("UD", _RUNS),
}
"""By name: the code that squeue shows for short, and the meaning."""

_BY_CODE = dict(STATES.values())


def meaning(text: str) -> Meaning:
    """What *text* means, as squeue or sacct give it: ``CANCELLED by 0``, ``CA``; a word of the future means running."""
    word = text.strip().partition(" ")[0].rstrip("+*").upper()
    return STATES[word][1] if word in STATES else _BY_CODE.get(word, _RUNS)


# --- what the login node told ----------------------------------------------------------------------------


@dataclass
class Facts:
    """What is known of one attempt of a job.

    Attributes:
        attempt: from 1.
        items: how many.
        cancelled: whether it was cancelled through Penstock.
        complete: every item has ended well.
        good: items that ended well, while not all have.
        bad: exit records of those that did not, by item.
        slurm: state and reason by item, of squeue or sacct.
        over_seconds: since when Slurm has known no living job of it; None where it knows one.
        trouble: why squeue could not be asked.
        accounting: why sacct could not be asked of what squeue has forgotten.
        now: the login node's clock.
    """

    attempt: int = 1
    items: int = 1
    cancelled: bool = False
    complete: bool = False
    good: set[int] = field(default_factory=set)
    bad: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    slurm: dict[int, tuple[str, str]] = field(default_factory=dict)
    over_seconds: float | None = None
    trouble: str = ""
    accounting: str = ""
    now: float = 0.0


def read(lines: Iterable[str]) -> dict[str, Facts]:
    """The answer of ``poll.sh``; ids that are known to nobody are not in it."""
    answer = _Answer()
    for kind, *fields in (line.split("|") for line in lines if line):
        note = getattr(answer, f"on_{kind}", None)
        if note is not None:
            note(*fields)
    return answer.facts


class _Answer:
    """What the lines of ``poll.sh`` add up to; a method for each kind of line."""

    def __init__(self) -> None:
        self.facts: dict[str, Facts] = {}
        self._parts: dict[str, list[tuple[str, int]]] = {}
        self._now = 0.0

    def on_now(self, seconds: str) -> None:
        self._now = float(seconds)

    def on_job(self, id_: str, attempt: str, items: str, cancelled: str) -> None:
        self.facts[id_] = Facts(int(attempt), int(items), cancelled == "1", now=self._now)

    def on_done(self, id_: str) -> None:
        self.facts[id_].complete = True

    def on_good(self, id_: str, items: str) -> None:
        self.facts[id_].good = set(_items(items))

    def on_bad(self, id_: str, suffix: str, *record: str) -> None:
        item, found = _bad_record(suffix, "|".join(record))
        self.facts[id_].bad[item] = found

    def on_part(self, id_: str, number: str, first: str) -> None:
        self._parts.setdefault(number, []).append((id_, int(first)))

    def on_slurm(self, number: str, state: str, reason: str, tasks: str = "") -> None:
        for id_, first in self._parts.get(number, []):
            self.facts[id_].slurm |= {first + task: (state, reason) for task in (_items(tasks) if tasks else [0])}

    def on_over(self, id_: str, seconds: str) -> None:
        self.facts[id_].over_seconds = float(seconds)

    def on_squeue(self, code: str, text: str = "") -> None:
        for found in self.facts.values():
            found.trouble = "" if found.complete or code == "0" else text.strip() or "squeue failed"

    def on_sacct(self, code: str, numbers: str, text: str = "") -> None:
        if code == "0" or _NO_ACCOUNTING.search(text):
            return
        for id_ in {id_ for number in numbers.split(",") for id_, _ in self._parts.get(number, [])}:
            self.facts[id_].accounting = text.strip() or "sacct failed"


# What sacct says where there is no accounting, and a shell where there is no sacct.
_NO_ACCOUNTING = re.compile("accounting storage is disabled|command not found", re.IGNORECASE)


def _items(text: str) -> list[int]:
    return [int(item) for item in text.split(",") if item.isdecimal()]


def _bad_record(suffix: str, text: str) -> tuple[int, Mapping[str, Any]]:
    """Item and record; *suffix* is ``.ITEM=CODE`` or ``=CODE``, *text* the record's JSON, perhaps damaged."""
    item, _, code = suffix.rpartition("=")
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    record = found if isinstance(found, dict) else {}
    return int(item.lstrip(".") or 0), {"ended": 0.0, **record, "code": int(code)}


# --- how it stands ---------------------------------------------------------------------------------------


def standing(facts: Facts, lost_seconds: float = LOST_SECONDS) -> Status:
    """How a job stands. Only a positive end ends it: an exit record, a final state of Slurm's, or lasting absence."""
    if facts.complete:
        return Status(JobState.DONE, "", False, facts.attempt)
    found = {item: _item(facts, item, lost_seconds) for item in range(facts.items) if item not in facts.good}
    if facts.items == 1:
        return _numbered(found[0], facts)
    return _numbered(_together(found, facts), facts)


def _numbered(status: Status, facts: Facts) -> Status:
    return replace(status, attempt=facts.attempt)


def _together(found: Mapping[int, Status], facts: Facts) -> Status:
    """Of many items: it runs while one of them may still end, and its end is the worst of theirs."""
    open_ = [status for status in found.values() if not status.state.final]
    if open_:
        begun = facts.good or facts.bad or len(open_) < len(found)
        states = {status.state for status in open_}
        if states == {JobState.PENDING} and begun:
            return Status(JobState.RUNNING, open_[0].why)
        return next(s for s in open_ if s.state is _first(states))
    first = min(found)
    failed = {item: status for item, status in found.items() if status.state is JobState.FAILED}
    if failed:
        first = min(failed)
        passing, continues = (all(getattr(s, name) for s in found.values()) for name in ("passing", "continues"))
        words = f"{len(found)} of {facts.items} items failed, the first is item {first}: {failed[first].why}"
        return Status(JobState.FAILED, words, passing, continues=continues)
    return found[first]


def _first(states: set[JobState]) -> JobState:
    return next(s for s in (JobState.RUNNING, JobState.UNKNOWN, JobState.PENDING) if s in states)


def _item(facts: Facts, item: int, lost_seconds: float) -> Status:
    word, reason = facts.slurm.get(item, ("", ""))
    known = meaning(word) if word else None
    record = facts.bad.get(item)
    if record is not None and record["code"] == _CONTINUE and record.get("warned"):
        return Status(JobState.FAILED, f"exit status {_CONTINUE}: it wants to be continued", True, continues=True)
    if record is not None:
        return _recorded(facts, record, known, word)
    if facts.trouble:
        return Status(JobState.UNKNOWN, facts.trouble)
    if known is None:
        return _absent(facts, lost_seconds)
    return _unrecorded(facts, known, word, reason, lost_seconds)


def _recorded(facts: Facts, record: Mapping[str, Any], known: Meaning | None, word: str) -> Status:
    """It left an exit record that is not 0; Slurm may know better why."""
    only_slurm_knows = record.get("terminated") and not (record.get("why") or facts.cancelled)
    living = known is not None and not known.state.final
    if facts.trouble or living:
        if facts.now - record["ended"] < (LOST_SECONDS if living and record.get("terminated") else _SETTLE_SECONDS):
            return Status(JobState.RUNNING, "ending")
        known = None
    asked_in_vain = facts.trouble or ("" if known or living else facts.accounting)
    if only_slurm_knows and asked_in_vain:
        return Status(JobState.UNKNOWN, asked_in_vain)
    words = f"exit status {record['code']}"
    cancelled = known is not None and known.state is JobState.CANCELLED
    if cancelled or (record.get("terminated") and facts.cancelled):
        return Status(JobState.CANCELLED, words)
    if known is not None and known.words and known.words != "it failed":
        return Status(JobState.FAILED, f"{words}, {word}: {known.words}", known.passing)
    return _by_record(facts, record, known, words)


def _by_record(facts: Facts, record: Mapping[str, Any], known: Meaning | None, words: str) -> Status:
    if why := record.get("why"):
        return Status(JobState.FAILED, f"{words}, {why}", record["code"] == _COPY_FAILED)
    if not record.get("terminated"):
        return Status(JobState.FAILED, words)
    # squeue tells of the ends of the last minutes, unless the controller crashed and has lost the job.
    lost = known is None and facts.now - record["ended"] < LOST_SECONDS
    return Status(JobState.FAILED, f"{words}, ended from outside{', and Slurm does not know it' * lost}", lost)


def _unrecorded(facts: Facts, known: Meaning, word: str, reason: str, lost_seconds: float) -> Status:
    """It left no exit record, and Slurm knows it."""
    why = word if reason in ("", "None") else f"{word} ({reason})"
    over = facts.over_seconds or 0.0
    if known.state in (JobState.PENDING, JobState.RUNNING):
        return Status(known.state, why)
    if known.state is JobState.DONE:
        if over < lost_seconds:
            return Status(JobState.RUNNING, "ended; its exit record is not seen yet")
        return Status(JobState.FAILED, f"Slurm says COMPLETED, but it left no exit record for {over:.0f} s", True)
    if word.startswith("FAILED") and over < _SETTLE_SECONDS:
        return Status(JobState.RUNNING, "ended; its exit record is not seen yet")
    passing = known.passing or reason in ("JobLaunchFailure", "NodeDown")
    return Status(known.state, f"{why}: {known.words}" if known.words else why, passing)


def _absent(facts: Facts, lost_seconds: float) -> Status:
    if facts.cancelled and facts.over_seconds is not None:
        return Status(JobState.CANCELLED, "CANCELLED")
    if facts.accounting:
        return Status(JobState.UNKNOWN, facts.accounting)
    if facts.over_seconds is not None and facts.over_seconds >= lost_seconds:
        words = f"lost: Slurm has not known it for {facts.over_seconds:.0f} s, and it left no exit record"
        return Status(JobState.FAILED, words, True)
    return Status(JobState.UNKNOWN, "Slurm does not know it")


# --- what sbatch says ------------------------------------------------------------------------------------

_COMES_BACK = (
    "timed out", "unable to contact slurm controller", "connection", "transport endpoint", "temporarily",
    "zero bytes", "unexpected message", "standby", "slurm_receive", "slurm_persist", "submitjob",
    "maxjobcount", "job limit", "protocol authentication", "munge", "socket", "communication", "somebody else holds",
    "interrupted",
)  # fmt: skip


def refusal(text: str) -> bool:
    """Whether what sbatch said will be said again until somebody changes something."""
    words = text.lower()
    if _POLICY in words and not _REASON.search(text):
        return False
    return bool(text.strip()) and not any(mark in words for mark in _COMES_BACK)


# Said of too many jobs, which passes, and of a job that is too large or too long, which does not. A line before it
# names which (QOSMaxSubmitJobPerUserLimit; AssocMaxWallDurationPerJobLimit), except where Slurm is old.
_POLICY = "violates accounting/qos policy"
_REASON = re.compile(r"\b(?:Assoc|QOS)[A-Z]\w+")


def doubtful(text: str) -> bool:
    """Whether what sbatch said may as well be a refusal, so that little patience is in place."""
    return _POLICY in text.lower() and not _REASON.search(text)
