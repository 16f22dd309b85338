"""Where the rows of a dataset lie in the plane, and which of them are nearest to a new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core.batch import to_numpy
from penstock.errors import SchemaError

__all__ = ["Atlas"]


@dataclass(frozen=True)
class Atlas:
    """A map of vectors.

    Attributes:
        column: the column of the answers that is put on it.
        names: of the points, "point".
        groups: of the points, for their colours, "point"; empty when there are none.
        vectors: float, "point dim".
        places: in the plane, float, "point 2".
        method: how the plane was made.
    """

    column: str
    names: Sequence[str]
    groups: Sequence[str]
    vectors: npt.NDArray[Any]
    places: npt.NDArray[np.float64]
    method: str

    def fits(self, schema: pa.Schema) -> None:
        """Look whether the answers' vectors are of the same kind. Raises `SchemaError`."""
        kind = schema.field(self.column).type if self.column in schema.names else None
        size = int(np.prod(kind.shape)) if isinstance(kind, pa.FixedShapeTensorType) else 0
        if size != self.vectors.shape[1]:
            raise SchemaError(
                f"the map is of '{self.column}' with {self.vectors.shape[1]} numbers a row; the answers have "
                f"{f'it as {kind}' if kind else 'no such column'}: serve the steps that made the dataset"
            )

    def nearest(self, batch: pa.Table, count: int) -> list[Mapping[str, Any]]:
        """For each row its *count* nearest points by the cosine of the centred vectors, and its place.

        The place is the mean of the neighbours', weighted by inverse distance: the plane itself is not made anew.
        """
        rows = to_numpy(batch[self.column]).astype(np.float64)
        similar = self._directions(rows.reshape(len(rows), -1)) @ self._points.T
        return [self._told(line, np.argsort(-line, kind="stable")[:count]) for line in similar]

    @cached_property
    def _mean(self) -> npt.NDArray[np.float64]:
        return np.asarray(self.vectors.mean(axis=0, dtype=np.float64))

    @cached_property
    def _points(self) -> npt.NDArray[np.float64]:
        return self._directions(self.vectors.astype(np.float64))

    def _directions(self, vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        centred = vectors - self._mean
        lengths = np.linalg.norm(centred, axis=1, keepdims=True)
        return np.asarray(centred / np.where(lengths == 0, 1, lengths))

    def _told(self, line: npt.NDArray[np.float64], nearest: npt.NDArray[np.intp]) -> Mapping[str, Any]:
        weights = 1 / (1 + 1e-9 - np.minimum(line[nearest], 1))  # a row that is on the map lies on its point
        place = (self.places[nearest] * weights[:, None]).sum(0) / weights.sum()
        points = [{"point": int(at), "name": self.names[at], "similarity": float(line[at])} for at in nearest]
        return {"place": place.tolist(), "neighbours": points}

    def plain(self) -> Mapping[str, Any]:
        """What the page draws."""
        places = np.round(self.places, 4).tolist()
        return {"method": self.method, "names": list(self.names), "groups": list(self.groups), "places": places}
