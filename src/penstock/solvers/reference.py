"""The reference to a dataset: the one row that a solver is given."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from penstock.core.dataset import Manifest, existing
from penstock.core.storage import Posix, store_of
from penstock.errors import DatasetError, SchemaError, UnitError

__all__ = ["REFERENCE", "Reference", "local_folder", "require_reference"]

REFERENCE = pa.schema(
    [("dataset", pa.string()), ("version", pa.int64()), ("rows", pa.int64()), ("sha256", pa.string())]
)
"""The columns of a dataset taken as a whole."""


def require_reference(given: pa.Schema, who: str) -> None:
    """Refuse all other columns than `REFERENCE`.

    Raises:
        SchemaError: the source gives rows, not a reference.
    """
    if not given.equals(REFERENCE):
        raise SchemaError(
            f"{who} needs all rows at once, so it takes the reference to a dataset ({', '.join(REFERENCE.names)}); "
            f"it was given: {', '.join(given.names) or 'no columns'}. "
            'Use source = { use = "dataset", uri = "...", whole = true } and make this the first step'
        )


@dataclass(frozen=True)
class Reference:
    """A dataset as it was when the run began.

    Attributes:
        dataset: address of its root.
        version: number of its manifest.
        rows: how many it has.
        sha256: identity of its content.
    """

    dataset: str
    version: int
    rows: int
    sha256: str

    @classmethod
    def of(cls, batch: pa.Table) -> Reference:
        """The one reference in *batch*.

        Raises:
            UnitError: there is another number of rows.
        """
        if batch.num_rows != 1:
            raise UnitError(f"{batch.num_rows} references to datasets were given; a solver takes one at a time")
        return cls(**batch.to_pylist()[0])

    def manifest(self) -> Manifest:
        """The dataset, which must still be the one that is meant.

        Raises:
            DatasetError: it was written anew since.
        """
        manifest = existing(self.dataset)
        if manifest.sha256 != self.sha256:
            raise DatasetError(
                f"{self.dataset}: version {self.version} was to be read and version {manifest.version} is there now, "
                "with other content; run again to take that one"
            )
        return manifest

    def plain(self) -> dict[str, str | int]:
        """As plain data."""
        return asdict(self)

    def told(self) -> dict[str, str | int]:
        """As plain data for a program that works in another folder: `Reference` again from ``**told()``."""
        return {**self.plain(), "dataset": str(local_folder(self.dataset) or self.dataset)}


def local_folder(uri: str) -> Path | None:
    """The absolute path of *uri*, by which a job in its own folder finds it; None where it is no file."""
    return Path(uri.removeprefix("file://")).expanduser().absolute() if isinstance(store_of(uri), Posix) else None
