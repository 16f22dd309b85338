"""Parquet, for exchange: text, metadata and embeddings side by side.

Format: https://parquet.apache.org/docs/file-format/. Dictionaries are off, since they make float data larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.core.dataset import Format, Manifest, commit, draft, publish_part
from penstock.core.nouns import Batch, Part, Records, Unit
from penstock.core.storage import Uri

__all__ = ["Parquet"]

_ROW_GROUP_BYTES = 64 << 20


@dataclass(frozen=True)
class Parquet:
    """A dataset of Parquet files.

    Attributes:
        uri: the dataset's root, a folder or ``s3://`` prefix.
        file_bytes: small parts are packed into files of about this size at commit.
        compression: of column chunks.
    """

    uri: Uri
    file_bytes: int = 256 << 20
    compression: Literal["none", "zstd", "snappy"] = "none"

    ASIDE = ("file_bytes",)

    def schema(self, given: pa.Schema) -> pa.Schema:
        """All columns that Arrow can hold."""
        return given

    def write(self, unit: Unit, batch: Batch) -> Part:
        """One file, named by its content."""
        return publish_part(self.uri, ".parquet", lambda path: self._write(batch, path), batch.num_rows)

    def commit(self, records: Records, provenance: Mapping[str, Any]) -> Manifest:
        """Pack small parts and publish the manifest."""
        return commit(draft(self.uri, "parquet", provenance), Format(".parquet", self._pack), records, self.file_bytes)

    def _write(self, batch: Batch, path: Path) -> None:
        batch = batch.combine_chunks()
        rows = max(1, _ROW_GROUP_BYTES * batch.num_rows // max(batch.nbytes, 1))
        pq.write_table(batch, path, row_group_size=rows, use_dictionary=False, compression=self.compression)

    def _pack(self, paths: Sequence[Path], target: Path) -> None:
        with pq.ParquetWriter(
            target, pq.read_schema(paths[0]), use_dictionary=False, compression=self.compression
        ) as writer:
            for path in paths:
                writer.write_table(pq.read_table(path, partitioning=None))
