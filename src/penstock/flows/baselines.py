"""What a generator of fields must beat."""

from __future__ import annotations

import numpy as np

from penstock.flows.operators import Floats, backward, forward, stream_function, velocity

__all__ = ["random_phase"]


def random_phase(flow: Floats, seed: int) -> Floats:
    """Fields whose modes have the sizes of *flow*'s and random phases, ``"... 2 y x"``, free of divergence and mean.

    Every spectrum of each field is its own one still, in shells, in directions, mode by mode; what eddies and the
    force have brought about between the modes is lost. A model that is no better has learned E(k) and nothing else.

    Source: Theiler et al., Physica D 58 (1992) 77 (surrogate data).
    """
    stream = stream_function(np.asarray(flow, np.float64))
    noise = forward(np.random.default_rng(seed).standard_normal(stream.shape))
    return np.asarray(velocity(backward(forward(stream) * noise / abs(noise))), flow.dtype)
