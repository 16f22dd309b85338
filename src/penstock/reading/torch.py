"""Batches of tensors for PyTorch's ``DataLoader``, each row to one rank and one worker.

https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.IterableDataset
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core.batch import to_numpy
from penstock.errors import SchemaError

if TYPE_CHECKING:
    from penstock.reading.dataset import Dataset

__all__ = ["stream"]


def stream(
    dataset: Dataset, rows: int, rank: int | None = None, world: int | None = None, seed: int | None = None
) -> Any:
    """An ``IterableDataset`` whose items are mappings from column names to tensors, ``"row ..."``; text stays a list.

    Blocks of neighbouring rows are dealt out in turn to the ranks, and by each to its workers. All ranks get as many,
    so that none waits for another; the up to ``world - 1`` blocks that are left over are read by nobody.

    Args:
        dataset: what is read.
        rows: of a block, and so of a batch; the last one may be shorter.
        rank: which of *world* this process is; None asks ``torch.distributed``, or is the only one.
        world: how many processes share the rows.
        seed: shuffles the blocks and the rows in each; another one for each epoch. None keeps the order.

    Raises:
        SchemaError: a column holds neither numbers nor text.
        ValueError: there are fewer blocks than ranks.
    """
    for column in dataset.schema:
        if dataset[column.name].dtype == object and not _is_text(column.type):
            raise SchemaError(f"column '{column.name}' is {column.type}; tensors are made of numbers: leave it out")
    if rank is None or world is None:
        rank, world = _distributed()
    if 0 < len(dataset) <= rows * (world - 1):
        raise ValueError(
            f"{len(dataset)} rows are {-(-len(dataset) // rows)} blocks of {rows}, too few for {world} ranks"
        )
    return _kind()(dataset, rows, rank, world, seed)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _distributed() -> tuple[int, int]:
    import torch.distributed as team

    up = team.is_available() and team.is_initialized()
    return (team.get_rank(), team.get_world_size()) if up else (0, 1)


@cache
def _kind() -> Any:
    from torch.utils.data import IterableDataset, get_worker_info

    class Stream(IterableDataset):  # type: ignore[misc]  # torch is untyped here
        """See `stream`."""

        def __init__(self, *given: Any) -> None:
            self._given = given

        def __reduce__(self) -> tuple[Any, ...]:
            return stream, self._given

        def __len__(self) -> int:
            dataset, rows, _, world, _ = self._given
            return len(_blocks(dataset, rows, 0, world, None))

        def __iter__(self) -> Iterator[dict[str, Any]]:
            dataset, rows, rank, world, seed = self._given
            worker = get_worker_info()
            first, each = (worker.id, worker.num_workers) if worker else (0, 1)
            yield from _share(dataset, rows, _blocks(dataset, rows, rank, world, seed)[first::each].tolist(), seed)

    return Stream


def _blocks(dataset: Dataset, rows: int, rank: int, world: int, seed: int | None) -> npt.NDArray[np.int64]:
    """The numbers of the blocks of one rank."""
    count = -(-len(dataset) // rows)
    order = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    return order[rank::world][: count // world]


def _share(dataset: Dataset, rows: int, blocks: Iterable[int], seed: int | None) -> Iterator[dict[str, Any]]:
    for block in blocks:
        table = dataset.arrow(slice(block * rows, (block + 1) * rows))
        if seed is not None:
            table = table.take(np.random.default_rng([seed, block]).permutation(table.num_rows))
        yield {name: _tensor(table[name]) for name in dataset.names}


def _tensor(column: pa.ChunkedArray) -> Any:
    import torch

    if _is_text(column.type):
        return column.to_pylist()
    array = to_numpy(column)
    return torch.from_numpy(array if array.flags.writeable else array.copy())
