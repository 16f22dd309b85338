"""Trainings that wait as soon as something of them was published, so that a test can kill what it likes, however slow
the machine is; workers can import them.

They wait as long as the file *hold* is there.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from penstock.core.dataset import versions
from penstock.core.storage import join
from penstock.trainings.masked import Masked
from penstock.trainings.psi_vae import PsiVae


@dataclass(frozen=True)
class _Held:
    hold: str = ""

    def train(self, team):
        super().train(_Waiting(team, self))


@dataclass(frozen=True)
class HeldMasked(_Held, Masked):
    """An encoder's."""

    ASIDE = (*Masked.ASIDE, "hold")


@dataclass(frozen=True)
class HeldPsiVae(_Held, PsiVae):
    """A generator's."""

    ASIDE = (*PsiVae.ASIDE, "hold")


class _Waiting:
    """The team, to which nobody says anything while it is held."""

    def __init__(self, team, training):
        self._team, self._training = team, training

    def __getattr__(self, name):
        return getattr(self._team, name)

    def gather(self, value):
        while self._training.hold and Path(self._training.hold).exists() and published(self._training):
            time.sleep(0.05)
        return self._team.gather(value)


def published(training):
    """Whether there is something to go on from."""
    return versions(join(training.uri, "training"))


def kill_a_worker(training, killed):
    """Once something was published, end one of the processes that train, and let the others go on."""
    while not killed:
        if published(training) and (workers := workers_of(os.getpid())):
            os.kill(workers[-1].pid, signal.SIGKILL)
            killed.append(workers[-1].pid)
        time.sleep(0.05)
    Path(training.hold).unlink()


def workers_of(driver):
    """The processes that train for this one."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            if any("RayTrainWorker" in word for word in process.cmdline()):
                found.append(process)
    return found
