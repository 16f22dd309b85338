"""Where networks run."""

from __future__ import annotations

from penstock.errors import PlanError

__all__ = ["device_of"]


def device_of(wanted: str, what: str) -> str:
    """``cpu`` or ``cuda``.

    Args:
        wanted: ``cpu``, ``cuda``, or ``auto`` for a GPU where torch sees one.
        what: whose place gives it a GPU, for the message: ``step`` or ``training``.

    Raises:
        PlanError: ``cuda`` was asked for, and torch sees none.
    """
    import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise PlanError(f"device = 'cuda', but torch sees no GPU here; give the {what}'s place gpus = 1, or 'auto'")
    return "cuda" if there and wanted != "cpu" else "cpu"
