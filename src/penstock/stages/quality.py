"""How much clips move, how sharp and how bright they are; those that are not worth a model are marked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core.batch import adding, field_of, to_numpy, with_columns
from penstock.core.nouns import Batch, Transform
from penstock.errors import SchemaError

__all__ = ["Quality", "brightness", "motion", "sharpness"]

Luma: TypeAlias = npt.NDArray[np.float32]

_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)
"""Of red, green and blue in luma: ITU-R BT.601, https://www.itu.int/rec/R-REC-BT.601."""


@dataclass(frozen=True)
class Quality:
    """Add ``motion``, ``sharpness`` and ``brightness`` (float32), ``kept`` (bool) and ``reason`` (text).

    All are taken from the luma of the frames in *column*, 0 to 255. ``motion`` is the mean absolute difference of one
    frame from the next; ``sharpness`` the variance of the Laplacian, its median over the frames (Pertuz et al. 2013,
    https://doi.org/10.1016/j.patcog.2012.11.011); ``brightness`` the mean. Rows below a limit stay: ``kept`` is false
    and ``reason`` is ``dark``, ``blurred`` or ``still``, the first that fits; of others it is empty.

    Attributes:
        column: uint8 frames, ``"frame y x rgb"``.
        least_brightness, least_sharpness, least_motion: the limits; 0 sets none.
    """

    column: str = "frames"
    least_brightness: float = 16.0
    least_sharpness: float = 4.0
    least_motion: float = 0.5

    def schema(self, given: pa.Schema) -> pa.Schema:
        """The measures and the verdict. Raises `SchemaError`."""
        kind = field_of(given, self.column, "quality").type
        if not _holds_frames(kind):
            raise SchemaError(
                f"quality needs frames in column '{self.column}', a uint8 tensor 'frame y x rgb' of 3 x 3 pixels or "
                f"more; it is {kind}"
            )
        measures = dict.fromkeys(("motion", "sharpness", "brightness"), pa.float32())
        return adding(given, {**measures, "kept": pa.bool_(), "reason": pa.string()})

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Nothing is loaded."""
        yield self._measure

    def _measure(self, batch: Batch) -> Batch:
        clips = to_numpy(batch[self.column])
        found = [(motion(y), sharpness(y), brightness(y)) for y in (clip @ _WEIGHTS for clip in clips)]
        reasons = [self._reason(*values) for values in found]
        measures = np.array(found, np.float32).reshape(-1, 3).T
        columns = {
            name: pa.array(row) for name, row in zip(("motion", "sharpness", "brightness"), measures, strict=True)
        }
        verdict = {"kept": pa.array([not reason for reason in reasons]), "reason": pa.array(reasons, pa.string())}
        return with_columns(batch, {**columns, **verdict})

    def _reason(self, moved: float, sharp: float, bright: float) -> str:
        if bright < self.least_brightness:
            return "dark"
        if sharp < self.least_sharpness:
            return "blurred"
        return "still" if moved < self.least_motion else ""


def _holds_frames(kind: pa.DataType) -> bool:
    tensor = isinstance(kind, pa.FixedShapeTensorType) and kind.value_type == pa.uint8()
    shape = tuple(kind.shape) if tensor else ()
    return len(shape) == 4 and shape[3] == 3 and min(shape[1:3]) >= 3


def motion(luma: Luma) -> float:
    """Mean absolute difference of a frame from the next, of ``"frame y x"``; 0 of a single frame."""
    return float(np.abs(np.diff(luma, axis=0)).mean()) if len(luma) > 1 else 0.0


def sharpness(luma: Luma) -> float:
    """Variance of the four-neighbour Laplacian of each frame of ``"frame y x"``; their median."""
    middle, up, down = luma[:, 1:-1, 1:-1], luma[:, :-2, 1:-1], luma[:, 2:, 1:-1]
    laplacian = up + down + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:] - 4 * middle
    return float(np.median(laplacian.var(axis=(1, 2), dtype=np.float64)))


def brightness(luma: Luma) -> float:
    """Mean of ``"frame y x"``."""
    return float(luma.mean(dtype=np.float64))
