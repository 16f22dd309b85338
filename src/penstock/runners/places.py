"""How a step comes alive where its place says: here, in a container, or in a service."""

from __future__ import annotations

from contextlib import AbstractContextManager

from penstock.core.nouns import Step, Transform
from penstock.core.work import here
from penstock.runners import container, service

__all__ = ["live"]


def live(step: Step) -> AbstractContextManager[Transform]:
    """The live function of *step*: a ``serve`` place without an address, and all others, open the stage here."""
    if step.place.kind == "container":
        return container.opened(step)
    if step.place.kind == "serve" and step.place.address:
        return service.opened(step)
    return here(step)
