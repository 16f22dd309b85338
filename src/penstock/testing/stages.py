"""The conformance suite for stages.

A package with a stage of its own has one test class for it::

    from penstock.testing import StageTests


    class TestHydropathy(StageTests):
        stage = Hydropathy(window=9)
        batch = pa.table({"sequence": ["MKTAYIAKQR", "GAVLI"]})
        needs = ("sequence",)
"""

from __future__ import annotations

import dataclasses
import json
import pickle
from io import BytesIO
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from penstock.core import plugins, wire
from penstock.core.batch import digest, to_numpy
from penstock.core.nouns import Batch, Identified, Stage, Transform, Weighted
from penstock.core.replay import stage_of
from penstock.errors import RowErrors, SchemaError

__all__ = ["StageTests"]


class StageTests:
    """Subclass it, set *stage* and *batch* (class attributes or properties), and pytest does the rest.

    Attributes:
        stage: the stage under test.
        batch: rows for it, four or more of different kinds; it may hold rows that the stage quarantines.
        needs: columns without which the stage cannot work.
        rowwise: whether each row's result depends on that row alone.
        tolerance: by how much floating point results may differ when rows come in other company; 0 wants equal bytes.
    """

    stage: ClassVar[Any]
    batch: ClassVar[pa.Table]
    needs: ClassVar[tuple[str, ...]] = ()
    rowwise: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.0

    def __init_subclass__(cls) -> None:
        if not cls.rowwise:  # the test is left out, not skipped: there is nothing to be done about it
            cls.test_rows_do_not_depend_on_each_other = None  # type: ignore[method-assign,assignment]

    def test_follows_the_protocol(self) -> None:
        """It has `schema` and `open`."""
        assert isinstance(self.stage, Stage)

    def test_is_frozen_data(self) -> None:
        """It is a frozen dataclass, so nothing live can hide in it."""
        assert dataclasses.is_dataclass(type(self.stage))
        with pytest.raises(dataclasses.FrozenInstanceError):
            self.stage.a_new_value = 1

    def test_fields_set_aside_exist(self) -> None:
        """``ASIDE`` names fields."""
        assert set(getattr(self.stage, "ASIDE", ())) <= {field.name for field in dataclasses.fields(self.stage)}

    def test_can_be_sent_to_a_worker(self) -> None:
        """It is equal to itself after a journey by pickle."""
        assert pickle.loads(pickle.dumps(self.stage)) == self.stage  # noqa: S301 (its own bytes)

    def test_can_be_written_to_a_file(self) -> None:
        """It is equal to itself after a journey by JSON."""
        text = json.dumps(plugins.describe(self.stage))
        assert plugins.adapter(type(self.stage)).validate_python(json.loads(text)) == self.stage

    def test_names_each_missing_column(self) -> None:
        """`schema` refuses a batch without a needed column, and says which."""
        for name in self.needs:
            given = self.batch.drop_columns([name]).schema
            with pytest.raises(SchemaError, match=name):
                self.stage.schema(given)

    def test_keeps_its_promise(self) -> None:
        """The result has the columns that `schema` promised: names, types and order."""
        assert self._good(self.batch).schema.equals(self.stage.schema(self.batch.schema))

    def test_leaves_its_argument_alone(self) -> None:
        """The batch that goes in is not changed."""
        before = digest(self.batch)
        self._good(self.batch)
        assert digest(self.batch) == before

    def test_same_batch_same_result(self) -> None:
        """Twice in one opening and once in another: the same bytes."""
        with self.stage.open() as transform:
            first, second = (digest(_sifted(transform, self.batch)[0]) for _ in range(2))
        assert first == second == digest(self._good(self.batch))

    def test_gives_the_same_over_the_wire(self) -> None:
        """Made anew from its name and JSON, and asked in Arrow, as containers and services are: the same bytes."""
        named = {"use": plugins.called("stages", self.stage), **json.loads(json.dumps(plugins.describe(self.stage)))}
        with self.stage.open() as here, stage_of(named).open() as there:
            near, far = _sifted(here, self.batch), _sifted(_across(there), self.batch)
        assert digest(far[0]) == digest(near[0])
        assert far[1].equals(near[1])
        assert far[2] == near[2]

    def test_does_not_see_chunks_and_offsets(self) -> None:
        """A batch in pieces, or cut from a larger one, gives the same result."""
        half = self.batch.num_rows // 2
        pieces = pa.concat_tables([self.batch.slice(0, half), self.batch.slice(half)])
        cut = pa.concat_tables([self.batch, self.batch]).combine_chunks().slice(self.batch.num_rows)
        expected = digest(self._good(self.batch))
        assert digest(self._good(pieces)) == expected
        assert digest(self._good(cut)) == expected

    def test_bad_rows_come_back_as_they_were(self) -> None:
        """Rows that are quarantined keep the columns that the stage received."""
        with self.stage.open() as transform:
            _, bad, reasons = _sifted(transform, self.batch)
        assert bad.schema.equals(self.batch.schema)
        assert all(reasons)

    def test_rows_do_not_depend_on_each_other(self) -> None:
        """The result of two batches together is their results together."""
        half = self.batch.num_rows // 2
        with self.stage.open() as transform:
            whole = _sifted(transform, self.batch)
            left, right = (_sifted(transform, part) for part in (self.batch.slice(0, half), self.batch.slice(half)))
        _assert_close(pa.concat_tables([left[0], right[0]]), whole[0], self.tolerance)
        assert pa.concat_tables([left[1], right[1]]).equals(whole[1])
        assert [*left[2], *right[2]] == whole[2]

    def test_identity_is_stable(self) -> None:
        """What else the result depends on is told by texts, the same at each call."""
        if isinstance(self.stage, Identified):
            found = dict(self.stage.identity())
            assert found == dict(self.stage.identity())
            assert all(isinstance(value, str) for pair in found.items() for value in pair)
        else:
            assert not hasattr(self.stage, "identity")

    def test_weights_have_a_size_and_a_licence(self) -> None:
        """A stage with weights says how large they are and under what terms they come; one without has neither."""
        if isinstance(self.stage, Weighted):
            licences = self.stage.licences()
            assert (self.stage.weights_bytes() > 0) == bool(licences)
            assert all(licence.name for licence in licences)
        else:
            assert not hasattr(self.stage, "weights_bytes")

    def _good(self, batch: Batch) -> Batch:
        with self.stage.open() as transform:
            return _sifted(transform, batch)[0]


def _across(transform: Transform) -> Transform:
    """*transform* as it is seen through a pipe."""

    def far(batch: Batch) -> Batch:
        request = wire.received(BytesIO(wire.asked(batch)))
        assert request is not None
        return wire.heard(BytesIO(wire.answered(transform, request)))

    return far


def _sifted(transform: Transform, batch: Batch) -> tuple[Batch, Batch, list[str]]:
    """Good rows, bad rows, and why."""
    try:
        return transform(batch), batch.schema.empty_table(), []
    except RowErrors as errors:
        return errors.good, errors.bad, errors.reasons


def _assert_close(found: pa.Table, expected: pa.Table, tolerance: float) -> None:
    assert found.schema.equals(expected.schema)
    assert found.num_rows == expected.num_rows
    for name in expected.column_names:
        left, right = _numbers(found[name]), _numbers(expected[name])
        if tolerance and left is not None and right is not None:
            np.testing.assert_allclose(left, right, rtol=0, atol=tolerance, err_msg=name)
        else:
            assert found[name].combine_chunks().equals(expected[name].combine_chunks()), name


def _numbers(column: pa.ChunkedArray) -> Any:
    """The floating point numbers of a column, however nested, or None when it holds others."""
    while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        column = pc.list_flatten(column)
    if isinstance(column.type, pa.FixedShapeTensorType):
        column = pa.chunked_array([to_numpy(column).reshape(-1)])
    return np.asarray(column.to_numpy()) if pa.types.is_floating(column.type) else None
