"""A process that trains a table by Ray Train: ``python lesson.py DATA TABLE JOURNAL [CAP_MIB [GROUP ...]]``.

A GROUP for each worker is the file by which it enters a control group.

Workers write their process number to the journal when they begin, and after each report. As long as there is a file
JOURNAL.hold, those that it does not name wait at their second report, so that a test can kill what it likes.
"""

import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock.core.nouns import Fit, Place
from penstock.models.skipgram import Chunk, learn
from penstock.runners.ray import Ray
from penstock.tables.schemes import Exact
from penstock.trainings.skipgram import Skipgram

ROWS, DIM = 6000, 8
LARGE_ROWS, LARGE_DIM = 600_000, 128


@dataclass(frozen=True)
class Observed(Skipgram):
    """The same, with a journal, and a cap on what the worker may hold in memory of its own."""

    journal: str = ""
    cap_mib: int = 0
    groups: tuple[str, ...] = ()

    ASIDE = (*Skipgram.ASIDE, "journal", "cap_mib", "groups")

    def train(self, team):
        compiled()  # LLVM takes 100 MB of its own, which are not the table's
        if self.groups:
            Path(self.groups[team.rank]).write_text("0")
        if self.cap_mib:
            self.cap()
        self.note("begun")
        try:
            super().train(_Noting(team, self))
        except Exception as error:
            self.note(f"failed {error!r}")
            raise

    def cap(self):
        """No more than ``cap_mib`` of its own from here on; nobody gets as much as that in one piece."""
        status = Path("/proc/self/status").read_text().split()
        used = 1024 * int(status[status.index("VmData:") + 1])
        resource.setrlimit(resource.RLIMIT_DATA, (used + (self.cap_mib << 20), resource.RLIM_INFINITY))
        try:
            np.empty((self.cap_mib + 1) << 20, np.uint8)
        except MemoryError:
            self.note("capped")
        else:
            raise AssertionError("the cap does not hold")

    def note(self, what):
        with Path(self.journal).open("a") as file:
            file.write(f"{what} {os.getpid()}\n")


def compiled():
    one, row = np.arange(1), np.zeros((1, 4), np.float32)
    learn(Chunk(one[:, None], one, one + 1, one, 1), row, row.copy(), window=1, negatives=1, rate=0.1)


class _Noting:
    def __init__(self, team, lesson):
        self._team, self._lesson, self._reports = team, lesson, 0

    def __getattr__(self, name):
        return getattr(self._team, name)

    def report(self, metrics):
        self._lesson.note("report")
        self._team.report(metrics)
        self._reports += 1
        while self._reports > 1 and self._held():
            time.sleep(0.05)

    def _held(self):
        hold = Path(f"{self._lesson.journal}.hold")
        return hold.exists() and str(os.getpid()) not in hold.read_text().split()


def lesson(data, table, journal, cap_mib=0, groups=(), workers=2):
    rows, dim = (LARGE_ROWS, LARGE_DIM) if cap_mib else (ROWS, DIM)
    given = {"dim": dim, "window": 3, "epochs": 1 if cap_mib else 6, "rate": 0.1, "chunk_tokens": 500, "block_rows": 20}
    given |= {
        "journal": str(journal),
        "cap_mib": cap_mib,
        "groups": tuple(groups),
        "publish_minutes": 10 if cap_mib else 0,
    }
    place = Place("actor", (workers, workers), cpus=0.5)
    return Fit("lesson", Observed(str(data), str(table), Exact(rows), **given), place)


if __name__ == "__main__":
    data, table, journal, *cap = sys.argv[1:]
    Ray(cpus=2).train(lesson(data, table, journal, int(cap[0]) if cap else 0, cap[1:]), print)
