"""What the embedding step makes in a second, with MiniLM's weights, beside the model's own torch module.

Random ids in rows of 3 to 128 tokens, as many threads for both. The module takes batches of 64 rows filled up to
their longest, as its users do it (rows as they come, and sorted by length), and throws its results away; Penstock's
time covers Arrow in and Arrow out, in units of 2000 rows. `make bench NAME=embedding`
"""

from __future__ import annotations

import os
from collections.abc import Callable

import measuring
import numpy as np
import pyarrow as pa

from penstock.core.nouns import Transform
from penstock.models.catalogue import folder_of
from penstock.stages.embedding import Embedding

ROWS, TURNS, BATCH = int(os.environ.get("BENCH_ROWS", "20000")), int(os.environ.get("BENCH_TURNS", "6")), 64
UNIT = 2000


def rows() -> list[np.ndarray]:
    """Token ids; many short rows and few long ones."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(3.4, 0.7, ROWS).astype(int), 3, 128)
    return [random.integers(1000, 30000, size=length) for length in lengths]


def bare(ids: list[np.ndarray]) -> Callable[[], None]:
    """The model's own module on padded batches."""
    import torch
    from transformers import AutoModel

    module = AutoModel.from_pretrained(folder_of("minilm"), add_pooling_layer=False).eval().embeddings

    def work() -> None:
        with torch.inference_mode():
            for start in range(0, len(ids), BATCH):
                batch = ids[start : start + BATCH]
                given = np.zeros((len(batch), max(map(len, batch))), np.int64)
                for row, tokens in enumerate(batch):
                    given[row, : len(tokens)] = tokens
                module(torch.from_numpy(given)).numpy()

    return work


def units(transform: Transform, table: pa.Table) -> Callable[[], None]:
    """The step on one unit after the other."""
    parts = [table.slice(start, UNIT) for start in range(0, ROWS, UNIT)]

    def work() -> None:
        for part in parts:
            transform(part)

    return work


def main() -> None:
    ids = rows()
    table = pa.table({"input_ids": pa.array(ids, pa.list_(pa.int32()))})
    plain, ordered = bare(ids), bare(sorted(ids, key=len))
    with (
        Embedding("minilm").open() as ragged,
        Embedding("minilm", length=128).open() as padded,
        Embedding("minilm", part="tokens").open() as tokens,
    ):
        actions: dict[str, Callable[[], object]] = {
            "penstock, ragged": units(ragged, table),
            "penstock, padded to 128": units(padded, table),
            "penstock, tokens alone": units(tokens, table),
            "torch module": plain,
            "torch module, rows sorted": ordered,
        }
        ways = {name: (lambda action=action: ROWS / measuring.seconds(action)) for name, action in actions.items()}
        found = measuring.turns(ways, TURNS)  # the first turn reads the weights and does not count
    rates = {name: measuring.spread(values[1:]) for name, values in found.items()}
    ratio = rates["penstock, ragged"]["median"] / rates["torch module"]["median"]
    sizes = {"rows": ROWS, "tokens": sum(map(len, ids)), "torch_batch_rows": BATCH, "warm_turns": TURNS - 1}
    measuring.write("embedding", {**sizes, "rows_a_second": rates, "ragged_over_torch_module": ratio})


if __name__ == "__main__":
    main()
