"""A process that trains a table by Ray Train: ``python lesson.py DATA TABLE JOURNAL [CAP_MIB]``.

Workers write their process number to the journal when they begin, and after each report.
"""

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from penstock.core.nouns import Fit, Place
from penstock.runners.ray import Ray
from penstock.tables.schemes import Exact
from penstock.trainings.skipgram import Skipgram

ROWS, DIM = 6000, 8
LARGE_ROWS, LARGE_DIM = 900_000, 128


@dataclass(frozen=True)
class Observed(Skipgram):
    """The same, with a journal, and a cap on what the worker may hold in memory of its own."""

    journal: str = ""
    cap_mib: int = 0

    ASIDE = (*Skipgram.ASIDE, "journal", "cap_mib")

    def train(self, team):
        if self.cap_mib:
            status = Path("/proc/self/status").read_text().split()
            used = 1024 * int(status[status.index("VmData:") + 1])
            resource.setrlimit(resource.RLIMIT_DATA, (used + (self.cap_mib << 20), resource.RLIM_INFINITY))
        self.note("begun")
        super().train(_Noting(team, self))

    def note(self, what):
        with Path(self.journal).open("a") as file:
            file.write(f"{what} {os.getpid()}\n")


class _Noting:
    def __init__(self, team, lesson):
        self._team, self._lesson = team, lesson

    def __getattr__(self, name):
        return getattr(self._team, name)

    def report(self, metrics):
        self._lesson.note("report")
        self._team.report(metrics)


def lesson(data, table, journal, cap_mib=0, workers=2):
    rows, dim = (LARGE_ROWS, LARGE_DIM) if cap_mib else (ROWS, DIM)
    given = {"dim": dim, "window": 3, "epochs": 1 if cap_mib else 6, "rate": 0.1, "chunk_tokens": 500, "block_rows": 20}
    given |= {"journal": str(journal), "cap_mib": cap_mib, "publish_minutes": 10 if cap_mib else 0}
    place = Place("actor", (workers, workers), cpus=0.5)
    return Fit("lesson", Observed(str(data), str(table), Exact(rows), **given), place)


if __name__ == "__main__":
    data, table, journal, *cap = sys.argv[1:]
    Ray(cpus=2).train(lesson(data, table, journal, int(cap[0]) if cap else 0), print)
