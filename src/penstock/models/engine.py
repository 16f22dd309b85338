"""Ways to run an encoder: packed, or the reference module of transformers on padded rows; and which one is taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from penstock.errors import PlanError
from penstock.models import packed, transformer
from penstock.models.device import device_of
from penstock.models.packed import Compute

if TYPE_CHECKING:
    import torch

__all__ = ["Choice", "Each", "Engine", "lanes", "opened"]

Ints = npt.NDArray[np.int64]
Choice = Literal["packed", "reference", "auto"]

Each = Callable[[Callable[[Ints], None], Sequence[Ints]], None]
"""Calls a function with each batch, several at a time."""

# Tokens of a batch, as measured. On a processor a layer's numbers should stay in a core's cache (see
# docs/encoders.md); a GPU wants enough of them to fill it. Padding counts in the reference's.
_TOKENS = {("packed", "cpu"): 512, ("packed", "cuda"): 32768, ("reference", "cpu"): 8192, ("reference", "cuda"): 32768}


@dataclass(frozen=True)
class Engine:
    """A live encoder.

    Attributes:
        name: ``packed`` or ``reference``.
        states: see `penstock.models.packed.States`.
        batches: cuts rows of these lengths into batches of a number of tokens.
        tokens: of a batch, as it is best.
        rates: tokens a second of each engine that was tried, when a choice was made.
    """

    name: Literal["packed", "reference"]
    states: packed.States
    batches: Callable[[Ints, int], Iterator[Ints]]
    tokens: int
    rates: Sequence[tuple[str, float]] = ()

    @property
    def told(self) -> str:
        """The choice and the rates behind it; empty when there was none."""
        rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in self.rates)
        return f"{self.name} of {rates} tokens/s" if rates else ""


@contextmanager
def opened(
    model: str, choice: Choice = "packed", compute: Compute = "float32", layer: int = -1, device: str = "auto"
) -> Iterator[Engine]:
    """The engine of *choice* with the weights of *model*.

    Args:
        model: a name of the catalogue, or a folder.
        choice: ``packed`` where the architecture is known to run so, else the reference; ``auto`` tries both for a
            moment and takes the faster one.
        compute: the number format of the layers.
        layer: the hidden states wanted, 0 for the token table, -1 for the last.
        device: ``auto`` takes a GPU where torch sees one.

    Raises:
        WeightsError: packages or weights are missing, damaged or unsafe.
        PlanError: the device is not there, or cannot compute so.
    """
    transformer.installed()
    place = device_of(device, "step")
    why = packed.unknown(model)
    if compute == "int8" and (place == "cuda" or why or choice != "packed"):
        raise PlanError(
            f"compute = 'int8' is of the packed engine on a processor; here: device {place}, engine {choice}, "
            f"{why or 'a known architecture'}; choose float32 or bfloat16"
        )
    if choice == "reference" or why:
        with _reference(model, layer, place, compute) as found:
            yield found
    elif choice == "packed":
        yield _packed(model, layer, place, compute)
    else:
        with _reference(model, layer, place, compute) as found:
            yield _faster(_packed(model, layer, place, compute), found, model)


def _packed(model: str, layer: int, place: str, compute: Compute) -> Engine:
    network = packed.loaded(model, layer, place, compute)
    return Engine("packed", network.states, packed.batches, _TOKENS["packed", place])


@contextmanager
def _reference(model: str, layer: int, place: str, compute: str) -> Iterator[Engine]:
    padding = transformer.shape_of(model).padding
    with transformer.opened(model, layer, place, compute=compute) as hidden:

        def states(ids: Ints, lengths: Ints) -> torch.Tensor:
            at = transformer.grid(np.concatenate([[0], np.cumsum(lengths)]), np.arange(len(lengths)))
            mask = at >= 0
            found = hidden(np.where(mask, ids[at], padding), mask)
            return found[_there(mask, found)]

        yield Engine("reference", states, transformer.batches, _TOKENS["reference", place])


def _there(mask: npt.NDArray[np.bool_], like: torch.Tensor) -> Any:
    import torch

    return torch.from_numpy(mask).to(like.device)


# --- choice ----------------------------------------------------------------------------------------------

_TRIED_TOKENS = 2048
_TRIES = 3


def _faster(ours: Engine, theirs: Engine, model: str) -> Engine:
    """The engine with the higher rate on random rows of mixed length, in turns; both rates stand in it."""
    vocabulary, longest = transformer.shape_of(model).vocabulary, transformer.shape_of(model).longest or 256
    random = np.random.default_rng(0)
    lengths = np.sort(random.integers(1, min(longest, 256) + 1, 1 + _TRIED_TOKENS // min(longest, 256)))[::-1]
    ids = random.integers(vocabulary, size=lengths.sum())
    taken: dict[str, list[float]] = {"packed": [], "reference": []}
    for _ in range(1 + _TRIES):
        for engine in (ours, theirs):
            started = time.perf_counter()
            engine.states(ids, lengths).sum().item()  # a GPU has to come to an end
            taken[engine.name].append(time.perf_counter() - started)
    rates = tuple((name, float(lengths.sum() / min(seconds[1:]))) for name, seconds in taken.items())  # first: warm-up
    best = ours if rates[0][1] >= rates[1][1] else theirs
    return Engine(best.name, best.states, best.batches, best.tokens, rates)


# --- threads ---------------------------------------------------------------------------------------------


@contextmanager
def lanes(threads: int, place: str = "cpu") -> Iterator[Each]:
    """Work on several batches at a time, each in a thread of its own; a lone batch gets all of torch's threads.

    So threads never wait for each other within a layer, and each batch stays in the cache of its core.

    Args:
        threads: in all; 0 takes as many as torch does.
        place: on ``cuda`` the batches go one after the other.
    """
    import torch

    before = torch.get_num_threads()
    count = (threads or before) if place == "cpu" else 1
    torch.set_num_threads(threads or before)
    try:
        with ThreadPoolExecutor(count, thread_name_prefix="encode") as pool:
            yield lambda work, batches: _all(pool, count, work, batches)
    finally:
        torch.set_num_threads(before)


def _all(pool: ThreadPoolExecutor, threads: int, work: Callable[[Ints], None], batches: Sequence[Ints]) -> None:
    import torch

    side_by_side = min(threads, len(batches))

    def alone(batch: Ints) -> None:
        torch.set_num_threads(threads // side_by_side)  # of this thread of ours
        work(batch)

    if side_by_side < 2:
        for batch in batches:
            work(batch)
    else:
        list(pool.map(alone, batches))
