"""Where networks run, and how numbers get there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from penstock.errors import PlanError

if TYPE_CHECKING:
    import torch

__all__ = ["device_of", "sent"]


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


def sent(values: npt.NDArray[Any], device: torch.device | str) -> torch.Tensor:
    """*values* as a tensor on *device*. To a GPU they go from pinned memory, and nobody waits for the copy.

    See https://docs.pytorch.org/docs/stable/notes/cuda.html#use-pinned-memory-buffers
    """
    import torch

    found = torch.from_numpy(np.ascontiguousarray(values))
    if torch.device(device).type != "cuda":
        return found.to(device)
    return found.pin_memory().to(device, non_blocking=True)
