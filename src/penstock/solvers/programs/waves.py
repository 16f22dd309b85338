"""Fourier transforms of a periodic plane that is shared out over the ranks.

A field, float64 ``"own_x y"``, is cut into slabs of lines along its first axis. Its spectrum, complex128
``"kx own_ky"``, is cut along the second one: lines are transformed where they lie, one exchange among all ranks
turns the plane, and the other axis follows. Only half of the spectrum is kept, as of any real field.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.solvers.programs.rows import bounds, gather_rows

__all__ = ["Field", "Spectrum", "Waves"]

Field: TypeAlias = npt.NDArray[np.float64]
Spectrum: TypeAlias = npt.NDArray[np.complex128]


@dataclass(frozen=True)
class Waves:
    """The transform of a square grid.

    Attributes:
        size: points along each axis; even.
        comm: the ranks that share it.
    """

    size: int
    comm: Any

    @property
    def lines(self) -> slice:
        """Our lines of the field."""
        return self._own(self.size)

    @property
    def columns(self) -> slice:
        """Our columns of the spectrum."""
        return self._own(self.size // 2 + 1)

    def _own(self, count: int) -> slice:
        return slice(*self._shares(count)[self.comm.rank])

    def forward(self, field: Field) -> Spectrum:
        """The spectrum of *field*, not scaled; collective."""
        from scipy import fft

        half = fft.rfft(field, axis=1)
        sent = [half[:, low:high] for low, high in self._shares(half.shape[1])]
        width = self.columns.stop - self.columns.start
        turned = self._exchanged(sent, [(high - low, width) for low, high in self._shares(self.size)])
        return np.asarray(fft.fft(np.concatenate(turned), axis=0))

    def backward(self, spectrum: Spectrum) -> Field:
        """The inverse of `forward`; collective."""
        from scipy import fft

        turned = fft.ifft(spectrum, axis=0)
        sent = [turned[low:high] for low, high in self._shares(self.size)]
        height = self.lines.stop - self.lines.start
        half = self._exchanged(sent, [(height, high - low) for low, high in self._shares(self.size // 2 + 1)])
        return np.asarray(fft.irfft(np.concatenate(half, axis=1), self.size, axis=1))

    def _shares(self, count: int) -> list[tuple[int, int]]:
        """What each rank has of *count*."""
        return [(int(low), int(high)) for low, high in pairwise(bounds(count, self.comm.size))]

    def _exchanged(self, sent: list[Spectrum], shapes: list[tuple[int, int]]) -> list[Spectrum]:
        """One block to each rank, and one of the given shape from each."""
        out = np.concatenate([block.ravel() for block in sent])
        counts = [height * width for height, width in shapes]
        into = np.empty(sum(counts), np.complex128)
        self.comm.Alltoallv([out, [block.size for block in sent]], [into, counts])
        blocks = np.split(into, np.cumsum(counts)[:-1])
        return [block.reshape(shape) for block, shape in zip(blocks, shapes, strict=True)]

    def numbers(self) -> tuple[Field, Field]:
        """The whole wave numbers of our spectrum: along x ``"kx 1"``, along y ``"1 own_ky"``."""
        along_x = np.fft.fftfreq(self.size, 1 / self.size)[:, None].astype(np.float64)
        return along_x, np.arange(self.columns.start, self.columns.stop, dtype=np.float64)[None]

    def dot(self, one: Spectrum, other: Spectrum) -> float:
        """The sum of the products of two fields, over the whole plane and all ranks, by their spectra; collective.

        The sums of all columns are put together first, so that it adds up in one order whatever the ranks.
        """
        twice = np.where(self.numbers()[1] % (self.size // 2) == 0, 1.0, 2.0)
        sums = (twice * (one.conj() * other).real).sum(axis=0)
        return float(gather_rows(self.comm, sums, self.size // 2 + 1).sum()) / self.size**2
