"""The conformance suite for sources.

A package with a source of its own has one test class for it::

    from penstock.testing import SourceTests


    class TestMine(SourceTests):
        @pytest.fixture
        def source(self, tmp_path):
            (tmp_path / "a.mine").write_text(...)
            return Mine(str(tmp_path))

        @pytest.fixture
        def expected(self):
            return pa.table({"text": ["all", "rows", "in", "order"]})
"""

from __future__ import annotations

import dataclasses
import pickle
from typing import ClassVar

import pyarrow as pa
import pytest

from penstock.core import plugins, spec
from penstock.core.batch import digest
from penstock.core.nouns import Batch, Pipeline, Sampled, Source, Unit
from penstock.core.spec import Spec
from penstock.errors import RowErrors
from penstock.sinks.parquet import Parquet

__all__ = ["SourceTests"]


class SourceTests:
    """Subclass it and give the fixtures `source` and `expected`.

    Attributes:
        sizes_bytes: values of ``unit_bytes``, where the source has such a field, that must not change a row.
    """

    sizes_bytes: ClassVar[tuple[int, ...]] = (1, 2, 3, 7, 50, 1 << 30)

    @pytest.fixture
    def source(self) -> Source:
        """The source under test."""
        raise NotImplementedError("give the source under test")

    @pytest.fixture
    def expected(self) -> pa.Table:
        """All its good rows, in order."""
        raise NotImplementedError("give the rows that the source must give")

    def test_follows_the_protocol(self, source: Source) -> None:
        """It has `uri`, `schema`, `units` and `read`."""
        assert isinstance(source, Source)
        assert isinstance(source.uri, str)

    def test_is_frozen_data(self, source: Source) -> None:
        """It is a frozen dataclass that can be a key."""
        assert dataclasses.is_dataclass(type(source))
        with pytest.raises(dataclasses.FrozenInstanceError):
            source.uri = "elsewhere"  # type: ignore[misc]
        assert hash(source) == hash(dataclasses.replace(source))  # type: ignore[type-var]

    def test_fields_set_aside_exist(self, source: Source) -> None:
        """``ASIDE`` names fields."""
        fields = {field.name for field in dataclasses.fields(source)}  # type: ignore[arg-type]
        assert set(getattr(source, "ASIDE", ())) <= fields

    def test_can_be_sent_to_a_worker(self, source: Source) -> None:
        """It is equal to itself after a journey by pickle, and gives the same units."""
        sent = pickle.loads(pickle.dumps(source))  # noqa: S301 (its own bytes)
        assert sent == source
        assert list(sent.units()) == list(source.units())

    def test_can_be_written_to_a_file(self, source: Source) -> None:
        """It is an entry point, and equal to itself after a journey by TOML and YAML."""
        assert plugins.load("sources", plugins.name_of("sources", source)) is type(source)
        written = Spec((Pipeline("line", source, Parquet("/out")),))
        for form in ("toml", "yaml"):
            assert spec.loads(spec.dumps(written, form), form).pipelines[0].source == source

    def test_gives_the_same_units_twice(self, source: Source) -> None:
        """The order is stable."""
        assert list(source.units()) == list(source.units())

    def test_gives_each_unit_a_key_of_its_own(self, source: Source) -> None:
        """Keys follow from the content's identity and the range, and are unique."""
        units = list(source.units())
        assert len({unit.key for unit in units}) == len(units)
        assert all(unit == Unit.of(unit.uri, unit.etag, unit.start, unit.stop, unit.size_bytes) for unit in units)

    def test_gives_units_as_a_stream(self, source: Source) -> None:
        """`units` gives an iterator, so a million units need not lie in memory."""
        units = source.units()
        assert iter(units) is units

    def test_reads_a_unit_the_same_twice(self, source: Source) -> None:
        """Same unit, same batch."""
        for unit in source.units():
            assert digest(_good(source, unit)) == digest(_good(source, unit))

    def test_gives_the_columns_it_promised(self, source: Source, expected: pa.Table) -> None:
        """Each batch has exactly the columns of `schema`: names, types and order."""
        assert source.schema().equals(expected.schema)
        for unit in source.units():
            assert _good(source, unit).schema.equals(source.schema())

    def test_gives_every_row_once_in_order(self, source: Source, expected: pa.Table) -> None:
        """The units together are what is expected."""
        assert _all(source).equals(expected)

    def test_gives_the_same_rows_however_it_is_cut(self, source: Source, expected: pa.Table) -> None:
        """No row is lost or doubled at a border, whatever ``unit_bytes``."""
        for cut in _cuts(source, self.sizes_bytes):
            assert _all(cut).equals(expected), cut

    def test_does_not_change_its_rows_by_what_it_sets_aside(self, source: Source) -> None:
        """A size of units is named in ``ASIDE``, since it does not change a row."""
        if _cuts(source, (1,)):
            assert "unit_bytes" in getattr(source, "ASIDE", ())

    def test_samples_rows_that_it_reads(self, source: Source) -> None:
        """A sample is the beginning of the batch, and its bytes are some of the unit's."""
        for unit in source.units() if isinstance(source, Sampled) else ():
            sample, taken = source.sample(unit)  # type: ignore[attr-defined]
            assert 0 <= taken <= unit.size_bytes
            assert sample.equals(_good(source, unit).slice(0, sample.num_rows))


def _good(source: Source, unit: Unit) -> Batch:
    try:
        return source.read(unit)
    except RowErrors as errors:
        return errors.good


def _all(source: Source) -> pa.Table:
    return pa.concat_tables([source.schema().empty_table(), *(_good(source, unit) for unit in source.units())])


def _cuts(source: Source, sizes: tuple[int, ...]) -> list[Source]:
    """The same source with other sizes of units, where it has such a field."""
    if "unit_bytes" not in {field.name for field in dataclasses.fields(source)}:  # type: ignore[arg-type]
        return []
    return [dataclasses.replace(source, unit_bytes=size) for size in sizes]  # type: ignore[type-var]
