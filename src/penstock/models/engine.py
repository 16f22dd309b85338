"""Ways to run an encoder: packed, or the reference module of transformers on padded rows; and which one is taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from penstock.errors import PlanError
from penstock.models import packed, transformer
from penstock.models.device import device_of, sent
from penstock.models.embedding import steps
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
        tokens: of a batch.
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


def _in_turn(work: Callable[[Ints], None], batches: Sequence[Ints]) -> None:
    for batch in batches:
        work(batch)


@contextmanager
def opened(
    model: str,
    choice: Choice = "packed",
    compute: Compute = "float32",
    layer: int = -1,
    device: str = "auto",
    *,
    each: Each = _in_turn,
    tokens: int | None = None,
) -> Iterator[Engine]:
    """The engine of *choice* with the weights of *model*.

    Args:
        model: a name of the catalogue, or a folder.
        choice: ``packed`` where the architecture is known to run so, else the reference; ``auto`` tries both for a
            moment and takes the faster one.
        compute: the number format of the layers.
        layer: the hidden states wanted, 0 for the token table, -1 for the last.
        device: ``auto`` takes a GPU where torch sees one.
        each: how batches will be run, the open `lanes`; the trial runs them so.
        tokens: of a batch; without it, as many as were measured to be best for the engine.

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
        with _reference(model, layer, place, compute, tokens) as found:
            yield found
    elif choice == "packed":
        yield _packed(model, layer, place, compute, tokens)
    else:
        with _reference(model, layer, place, compute, tokens) as found:
            ours = _packed(model, layer, place, compute, tokens)
            yield _faster(ours, found, _Trial.of(model, place), each)


def _packed(model: str, layer: int, place: str, compute: Compute, tokens: int | None) -> Engine:
    network = packed.loaded(model, layer, place, compute)
    return Engine("packed", network.states, packed.batches, tokens or _TOKENS["packed", place])


@contextmanager
def _reference(model: str, layer: int, place: str, compute: str, tokens: int | None) -> Iterator[Engine]:
    padding = transformer.shape_of(model).padding
    with transformer.opened(model, layer, place, compute=compute) as hidden:

        def states(ids: Ints, lengths: Ints) -> torch.Tensor:
            at = transformer.grid(np.concatenate([[0], np.cumsum(lengths)]), np.arange(len(lengths)))
            mask = at >= 0
            found = hidden(np.where(mask, ids[at], padding), mask)
            return found[sent(mask, found.device)]

        yield Engine("reference", states, transformer.batches, tokens or _TOKENS["reference", place])


# --- choice ----------------------------------------------------------------------------------------------

_TRIES = 3
_ENOUGH_SECONDS = 1.0  # after a try of so long there is no other


def _faster(ours: Engine, theirs: Engine, trial: _Trial, each: Each) -> Engine:
    """The engine with the higher rate on random rows of mixed length; both rates stand in it."""
    rates = tuple((engine.name, trial.rate(engine, each)) for engine in (ours, theirs))
    best = ours if rates[0][1] >= rates[1][1] else theirs
    return replace(best, rates=rates)


@dataclass(frozen=True)
class _Trial:
    """How an engine is tried: as it will be used, with full batches in all lanes.

    Attributes:
        vocabulary: ids are below this.
        longest: tokens of a row.
        lanes: batches at a time.
    """

    vocabulary: int
    longest: int
    lanes: int

    @classmethod
    def of(cls, model: str, place: str) -> _Trial:
        import torch

        shape = transformer.shape_of(model)
        return cls(shape.vocabulary, min(shape.longest or 256, 256), torch.get_num_threads() if place == "cpu" else 1)

    def rate(self, engine: Engine, each: Each) -> float:
        """Tokens a second, the best of a few tries after a short row for each lane, which warms up."""
        lengths, cuts = self.batches(engine)
        taken: list[float] = []
        self._seconds(engine, each, np.full(self.lanes, min(self.longest, 32)), list(np.arange(self.lanes)[:, None]))
        for _ in range(_TRIES):
            taken.append(self._seconds(engine, each, lengths, cuts))
            if taken[-1] >= _ENOUGH_SECONDS:
                break
        return float(lengths[np.concatenate(cuts)].sum() / min(taken))

    def batches(self, engine: Engine) -> tuple[Ints, Sequence[Ints]]:
        """Lengths of rows, and one batch of them for each lane: of long rows, of shorter ones, and so on."""
        rows = 1 + 8 * self.lanes * engine.tokens // self.longest  # about four batches for each lane
        lengths = np.random.default_rng(0).integers(1, self.longest + 1, rows)
        cuts = list(engine.batches(lengths, engine.tokens))
        return lengths, cuts[:: max(1, len(cuts) // self.lanes)][: self.lanes]

    def _seconds(self, engine: Engine, each: Each, lengths: Ints, cuts: Sequence[Ints]) -> float:
        ids = np.random.default_rng(0).integers(self.vocabulary, size=lengths.sum())
        starts = np.cumsum(lengths) - lengths

        def work(cut: Ints) -> None:
            at = np.repeat(starts[cut], lengths[cut]) + steps(lengths[cut])
            engine.states(ids[at], lengths[cut]).sum().item()  # a GPU has to come to an end

        started = time.perf_counter()
        each(work, cuts)
        return time.perf_counter() - started


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
        _in_turn(work, batches)
    else:
        list(pool.map(alone, batches))
