"""The conformance suite for runners: whatever `inline` gives, every runner gives, row for row."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.core.dataset import Manifest
from penstock.core.nouns import Pipeline, Place, Runner, Step
from penstock.core.reading import read_table
from penstock.errors import RunError, TooManyBadRows, TooManyBadUnits
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.testing.parts import Journal, Numbers, Squares

__all__ = ["RunnerTests"]


class RunnerTests:
    """Subclass it and give `runner`.

    Example::

        class TestMine(RunnerTests):
            @pytest.fixture
            def runner(self):
                return Mine()
    """

    @pytest.fixture
    def runner(self) -> Runner:
        """The runner under test."""
        raise NotImplementedError("give the runner under test")

    @pytest.mark.parametrize(
        "places",
        [
            (Place(), Place()),
            (Place("task"), Place("task", cpus=0.5)),
            (Place(), Place("actor", replicas=(1, 2), cpus=0.5)),
            (Place("task", cpus=0.5), Place("actor", cpus=0.5)),
            (Place("actor", cpus=0.5), Place("task", cpus=0.5)),
            (Place(concurrency=2), Place("actor", cpus=0.5, concurrency=4)),
            (Place("actor", replicas=(1, 2), cpus=0.25), Place("actor", replicas=(1, 2), cpus=0.5)),
        ],
        ids=["functions", "tasks", "actors", "task-actor", "actor-task", "threads", "pools"],
    )
    def test_every_place_gives_the_dataset_of_inline(
        self, runner: Runner, tmp_path: Path, places: tuple[Place, Place]
    ) -> None:
        """Places change where a step runs, and not a byte of what it gives."""

        def line(name: str) -> Pipeline:
            steps = (Step(Journal(str(tmp_path / "journal")), places[0]), Step(Squares(bad=(33,)), places[1]))
            read = Place("task", cpus=0.5) if places[0].kind == "task" else Place()
            return Pipeline(name, Numbers(15), Parquet(str(tmp_path / name), file_bytes=4000), steps, read)

        report, wanted = runner.run(line("ours")), Inline().run(line("inline"))
        assert _rows(report.manifest).equals(_rows(wanted.manifest))
        assert _files(report.manifest) == _files(wanted.manifest), "parts are equal byte for byte"
        assert (report.rows, report.bad_rows, report.units) == (259, 1, 15)

    def test_one_bad_row_in_a_hundred_costs_one_row(self, runner: Runner, tmp_path: Path) -> None:
        """99 rows arrive, and the bad one is quarantined with its error."""
        line = _line(tmp_path, Numbers(1, 100), Squares(bad=(37,)))
        report = runner.run(line)
        assert (report.rows, report.bad_rows) == (99, 1)
        assert 37 not in _rows(report.manifest)["number"].to_pylist()
        [file] = (tmp_path / "out" / "quarantine").rglob("*.parquet")
        [row] = pq.read_table(file, partitioning=None).to_pylist()
        assert (row["number"], row["_error"], row["_step"]) == (37, "ValueError: the number 37 is bad", "1-squares")

    def test_too_many_bad_rows_stop_the_run(self, runner: Runner, tmp_path: Path) -> None:
        """The limit ends the run with its name."""
        line = _line(tmp_path, Numbers(5), Squares(bad=tuple(range(0, 100, 10))), max_bad_rows=3)
        with pytest.raises(TooManyBadRows, match="max_bad_rows allows 3"):
            runner.run(line)

    def test_a_failed_unit_is_told_and_the_others_are_kept(self, runner: Runner, tmp_path: Path) -> None:
        """Nothing is committed, and the next run does only what is left."""
        with pytest.raises(TooManyBadUnits, match="unit 3 cannot be read, as the test wants it"):
            runner.run(_line(tmp_path, Numbers(5, broken=(3,)), Squares()))
        report = runner.run(_line(tmp_path, Numbers(5), Squares()))
        assert (report.skipped, report.rows) == (4, 100)

    def test_done_units_are_skipped_and_new_ones_are_added(self, runner: Runner, tmp_path: Path) -> None:
        """Each unit is worked on once."""
        journal = tmp_path / "journal"
        first = runner.run(_line(tmp_path, Numbers(4), Journal(str(journal))))
        again = runner.run(_line(tmp_path, Numbers(4), Journal(str(journal))))
        more = runner.run(_line(tmp_path, Numbers(6), Journal(str(journal))))
        assert (first.skipped, again.skipped, more.skipped) == (0, 4, 4)
        assert again.manifest == first.manifest
        assert len(journal.read_text().splitlines()) == 6
        assert _rows(more.manifest)["number"].to_pylist() == list(range(120))

    def test_a_changed_setting_redoes_the_work(self, runner: Runner, tmp_path: Path) -> None:
        """A fingerprint covers the settings."""
        runner.run(_line(tmp_path, Numbers(3), Squares()))
        report = runner.run(_line(tmp_path, Numbers(3), Squares(bad=(5,))))
        assert (report.skipped, report.rows, report.bad_rows) == (0, 59, 1)

    def test_no_units_give_an_empty_dataset(self, runner: Runner, tmp_path: Path) -> None:
        """The columns are there, the rows are none."""
        report = runner.run(_line(tmp_path, Numbers(0), Squares()))
        assert report.rows == 0
        assert _rows(report.manifest).column_names == ["number", "name", "powers"]

    def test_a_stage_that_cannot_be_opened_is_told(self, runner: Runner, tmp_path: Path) -> None:
        """The step and the cause are named."""
        with pytest.raises(RunError, match=r"step journal cannot be opened: FileNotFoundError"):
            runner.run(_line(tmp_path, Numbers(3), Journal(str(tmp_path / "no" / "such" / "folder"))))


def _line(folder: Path, source: Numbers, stage: Journal | Squares, max_bad_rows: int = 1000) -> Pipeline:
    step = Step(stage, Place("actor", cpus=0.5))
    return Pipeline("line", source, Parquet(str(folder / "out")), (step,), max_bad_rows=max_bad_rows)


def _rows(manifest: Manifest) -> pa.Table:
    return read_table(manifest.uri)


def _files(manifest: Manifest) -> list[dict[str, object]]:
    return list(manifest.parts().to_pylist())
