"""What an OpenFOAM program printed: how far it came, how well it conserved, and the first thing that went wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Log", "fault"]

_NUMBER = r"([-+]?(?:\d[\d.]*(?:[eE][-+]?\d+)?|nan|inf))"
_TIME = re.compile(rf"^Time = {_NUMBER}", re.MULTILINE)
_COURANT = re.compile(rf"^Courant Number mean: {_NUMBER} max: {_NUMBER}", re.MULTILINE)
_CONTINUITY = re.compile(rf"continuity errors : sum local = {_NUMBER}, global = {_NUMBER}, cumulative = {_NUMBER}")
_RESIDUAL = re.compile(
    rf"^(\w+):  Solving for ([\w.]+), Initial residual = {_NUMBER}, Final residual = {_NUMBER}, No Iterations (\d+)",
    re.MULTILINE,
)
_FATAL = re.compile(
    r"--> FOAM FATAL (?:IO )?ERROR:?[^\n]*\n(.*?)(?=\n\s*From |\n\s*FOAM (?:exiting|aborting)|\Z)", re.DOTALL
)
_SIGFPE = re.compile(r"sigFpe::sigHandler|Floating point exception(?! trapping)|sigHandler.*FPE")
_MOST_ITERATIONS = 1000
"""The limit that lduMatrix sets when fvSolution gives none."""


@dataclass(frozen=True)
class Residual:
    """One solution of a linear system."""

    solver: str
    initial: float
    final: float
    iterations: int


@dataclass(frozen=True)
class Log:
    """What a solver printed.

    Attributes:
        times: of its steps.
        courant: the largest Courant number of each step.
        continuity: ``sum local`` of each pressure solution, the mean absolute divergence by volume, times the step.
        cumulative: the sum of global errors after each.
        residuals: by field.
    """

    times: tuple[float, ...] = ()
    courant: tuple[float, ...] = ()
    continuity: tuple[float, ...] = ()
    cumulative: tuple[float, ...] = ()
    residuals: Mapping[str, tuple[Residual, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> Log:
        """From what was printed."""
        residuals: dict[str, list[Residual]] = {}
        for solver, name, first, last, count in _RESIDUAL.findall(text):
            residuals.setdefault(name, []).append(Residual(solver, float(first), float(last), int(count)))
        errors = _CONTINUITY.findall(text)
        return cls(
            tuple(map(float, _TIME.findall(text))),
            tuple(float(largest) for _, largest in _COURANT.findall(text)),
            tuple(float(local) for local, _, _ in errors),
            tuple(float(total) for _, _, total in errors),
            {name: tuple(found) for name, found in residuals.items()},
        )

    def unsolved(self) -> str:
        """The first linear system whose solver gave up or gave no number, or nothing."""
        for name, found in self.residuals.items():
            for residual in found:
                if residual.iterations > _MOST_ITERATIONS or not residual.final < float("inf"):
                    return f"{residual.solver} for {name} ended at {residual.final:g} after {residual.iterations} steps"
        return ""


def fault(text: str, code: int, program: str) -> str:
    """The first wrong thing in what *program* printed and its exit status *code*, or nothing when it ended well."""
    log = Log.of(text)
    at = f" at time {log.times[-1]:g}" if log.times else ""
    courant = f"; the Courant number was {log.courant[-1]:g}" if log.courant and not log.courant[-1] < 1 else ""
    if fatal := _FATAL.search(text):
        words = " ".join(line.strip() for line in fatal[1].splitlines() if line.strip())
        return f"{program} gave up{at}: {words[:400] or 'without a word'}"
    if code in (-8, 136) or (code and _SIGFPE.search(text)):
        return (
            f"{program} met a floating point exception{at}{courant}; a smaller deltaT, or a smoother field, is needed"
        )
    if code < 0:
        return f"{program} was ended by signal {-code}{at}"
    if code:
        last = [line.strip() for line in text.splitlines() if line.strip()][-1:]
        return f"{program} ended with status {code}{at}: {last[0][:400] if last else 'it printed nothing'}"
    if unsolved := log.unsolved():
        return f"{program} did not converge: {unsolved}{courant}"
    return ""
