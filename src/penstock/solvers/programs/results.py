"""The file in which rank 0 leaves what a program found, and its reading by the stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from penstock.errors import UnitError

__all__ = ["found_arrays", "write_arrays"]


def write_arrays(path: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """All arrays into one ``.npz`` that appears under its name when it is whole."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}")
    with temporary.open("wb") as file:
        np.savez(file, **dict[str, Any](arrays))
    temporary.replace(target)


def found_arrays(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """The arrays called *names* in the file that a job has left.

    Raises:
        UnitError: they cannot be read.
    """
    try:
        with np.load(path) as found:
            return {name: found[name] for name in names}
    except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
        raise UnitError(f"the job ended well and its result cannot be read ({error}); run again") from error
