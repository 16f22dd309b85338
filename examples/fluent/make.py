"""Makes what the pipeline reads: the mesh of a small channel, and fields for its inlet and its start.

``python make.py`` writes the same bytes each time. In earnest the fields come from a generator, and the case is set up
in Fluent once.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.core.batch import tensor_column
from penstock.formats.fluent import block, from_foam, write_msh

HERE = Path(__file__).parent
CELLS, SIZE = (8, 6, 6), (2.0, 1.0, 1.0)
SIDES = ("inlet", "outlet", "walls", "walls", "walls", "walls")
KINDS = {"inlet": "velocity-inlet", "outlet": "pressure-outlet"}


def centres(axis: int) -> np.ndarray:
    """Of the cells along an axis, m."""
    return (np.arange(CELLS[axis]) + 0.5) / CELLS[axis] * SIZE[axis]


def velocity(seed: int) -> np.ndarray:
    """A duct's laminar flow and vortices along it, ``"component z y x"``, m/s; nothing flows through the walls."""
    strength, phase = np.random.default_rng(seed).standard_normal((2, 3))
    z, y, x = np.meshgrid(centres(2), centres(1), centres(0), indexing="ij")
    u, v, w = 36 * y * (1 - y) * z * (1 - z), np.zeros_like(x), np.zeros_like(x)
    for mode, (height, shift) in enumerate(zip(strength, phase, strict=True), start=1):
        wave = 0.1 * height / mode * np.cos(np.pi * x + shift)
        v -= wave * mode * np.sin(np.pi * y) * np.cos(mode * np.pi * z)
        w += wave * np.cos(np.pi * y) * np.sin(mode * np.pi * z)
    return np.stack([u, v, w]).astype(np.float32)


def main() -> None:
    """Write both files."""
    write_msh(HERE / "channel.msh", from_foam(block(CELLS, SIZE, SIDES), KINDS))
    start = np.stack([velocity(seed) for seed in range(4)])
    columns = {"seed": np.arange(4), "start": tensor_column(start), "inlet": tensor_column(start[..., 0])}
    pq.write_table(pa.table(columns), HERE / "fields.parquet", compression="none", use_dictionary=False)


if __name__ == "__main__":
    main()
