"""How soon a flow behind an inlet is what it shall be: statistics of a station across it, and development lengths.

Sources: Dhamankar, Blaisdell, Lyrintzis, AIAA J. 56 (2018) 1317 (inflow conditions, and why the length of the
adjustment behind them is what they are judged by); Pope, Turbulent Flows, 2000, chapter 3 (scales).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Station", "development_length", "station"]

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Station:
    """The statistics of what passes one station.

    Attributes:
        energy: half the mean square of the velocity's fluctuations, in m2/s2.
        enstrophy: half the mean square of the vorticity's fluctuations, in 1/s2.
        length: along the flow, in m, after which u is correlated with itself by 1/e; it is the integral length where
            correlation falls exponentially, and wants fewer samples.
        slope: p of a spectrum E(k) ~ k^-p, from the energies of two neighbouring octaves.
        flatness: fourth moment of the vorticity's fluctuations by the square of the second; 3 for a Gaussian.
    """

    energy: float
    enstrophy: float
    length: float
    slope: float
    flatness: float


def station(flow: Doubles, vorticity: Doubles, sample_metres: float, octave_metres: float) -> Station:
    """The statistics of what passes a station; fluctuations are what differs from the mean over time at a point.

    Args:
        flow: u and v, ``"sample point 2"``.
        vorticity: at the same times and points, ``"sample point"``.
        sample_metres: how far the mean flow carries what passes from one sample to the next (Taylor's hypothesis).
        octave_metres: wave length at which the octaves of the slope begin; they end at its quarter.
    """
    moved, turned = flow - flow.mean(0), vorticity - vorticity.mean(0)
    squares = float((turned**2).mean())
    return Station(
        energy=float((moved**2).sum(-1).mean() / 2),
        enstrophy=squares / 2,
        length=sample_metres * _fallen(_correlation(moved[..., 0])),
        slope=_slope(moved, octave_metres / sample_metres),
        flatness=float((turned**4).mean()) / squares**2,
    )


def _correlation(series: Doubles) -> Doubles:
    """Of what comes some samples later with what is here, 1 for the same sample; the mean over the points."""
    count = len(series)
    power = (abs(np.fft.rfft(series, 2 * count, axis=0)) ** 2).mean(1)
    sums = np.fft.irfft(power)[:count] / np.arange(count, 0, -1)
    return np.asarray(sums / sums[0])


def _fallen(correlation: Doubles) -> float:
    """Where it has fallen to 1/e, in samples."""
    below = np.flatnonzero(correlation <= 1 / math.e)
    if not len(below):
        return math.inf
    last = int(below[0]) - 1
    return last + float((correlation[last] - 1 / math.e) / (correlation[last] - correlation[last + 1]))


def _slope(moved: Doubles, samples: float) -> float:
    """Of the spectrum over the octaves below a wave of so many samples; Hann's window keeps long waves out of them."""
    window = np.hanning(len(moved))[:, None, None]
    power = (abs(np.fft.rfft(moved * window, axis=0)) ** 2).sum((1, 2))
    octave = np.log2(np.maximum(np.arange(len(power)), 1) * samples / len(moved))
    first, second = (power[(octave >= low) & (octave < low + 1)].sum() for low in (0, 1))
    return 1 + math.log2(first / second)


def development_length(places: Doubles, found: Doubles, reference: Doubles, band: float) -> float:
    """The first place from which on a statistic stays within a band about the reference's at the same places.

    Args:
        places: distances from the inlet, rising, in m, ``"place"``.
        found: the statistic there, ``"place"``.
        reference: what it shall be there, ``"place"``.
        band: the half width, as a share of the reference.

    Returns:
        The distance in m; infinite when it is outside at the last place.
    """
    outside = np.flatnonzero(~(abs(found / reference - 1) <= band))
    first = int(outside[-1]) + 1 if len(outside) else 0
    return float(places[first]) if first < len(places) else math.inf
