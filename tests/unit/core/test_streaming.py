"""Rows in order for a solver that runs meanwhile, and what happens after it was killed."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
import pytest

from penstock.core.nouns import Batch, Solver, Step, Stream, Unit
from penstock.core.storage import Uri
from penstock.core.streaming import begin, fed, making, recorded, rows_made, runs, schemas
from penstock.errors import RunError, SchemaError
from penstock.runners.inline import Inline

NUMBERS = pa.schema([("n", pa.int64())])


@dataclass(frozen=True)
class Counts:
    """Units of 1, 2, 3 ... numbers, and a list of the units that were read."""

    units_: int = 5
    uri: Uri = "counts"
    read_: list[int] = field(default_factory=list)

    ASIDE = ("read_",)

    def schema(self):
        return NUMBERS

    def units(self):
        start = 0
        for size in range(1, self.units_ + 1):
            yield Unit.of("counts", str(size), start, start + size, 8 * size)
            start += size

    def read(self, unit):
        self.read_.append(unit.stop - unit.start)
        return pa.table({"n": range(unit.start, unit.stop)}, NUMBERS)


@dataclass(frozen=True)
class Twice:
    """Doubles numbers, and refuses one of them."""

    refused: int = -1

    def schema(self, given):
        return given

    @contextmanager
    def open(self):
        def double(batch: Batch) -> Batch:
            numbers = batch["n"].to_pylist()
            if self.refused in numbers:
                raise ValueError(f"{self.refused} is not wanted")
            return pa.table({"n": [2 * n for n in numbers]}, NUMBERS)

        yield double


@dataclass(frozen=True)
class Sum:
    """A solver that takes so many numbers, and dies after some of them."""

    uri: Uri
    taken: list[int] = field(default_factory=list)
    wanted: int = 15
    dies_after: int = 10**9

    ASIDE = ("taken", "dies_after")

    def schema(self, given):
        if given != NUMBERS:
            raise SchemaError("Sum needs a column n")

    def done(self) -> bool:
        return len(self.taken) >= self.wanted

    def run(self, rows: Callable[[int], Iterator[Batch]], heard: Callable[[Mapping[str, float]], None]) -> None:
        for batch in rows(len(self.taken)):
            for number in batch["n"].to_pylist():
                if len(self.taken) == self.dies_after:
                    raise RunError("dead")
                self.taken.append(number)
                heard({"solver_time": float(len(self.taken))})
                if self.done():
                    return


def line(tmp_path, **solver):
    return Stream("line", Counts(), Sum(str(tmp_path / "run"), **solver), (Step(Twice()),))


def test_a_solver_gets_every_row_in_order(tmp_path):
    stream, said = line(tmp_path), []
    Inline().stream(stream, said.append)
    assert isinstance(stream.into, Solver)
    assert stream.into.taken == [2 * n for n in range(15)]
    assert said[-1] == {"solver_time": 15.0}
    Inline().stream(stream, said.append)
    assert len(said) == 15, "what is done is not done again"


def test_a_solver_that_died_goes_on_with_the_units_that_are_needed(tmp_path):
    taken = []
    with pytest.raises(RunError, match="dead"):
        Inline().stream(line(tmp_path, taken=taken, dies_after=8), lambda _: None)
    again = line(tmp_path, taken=taken)
    Inline().stream(again, lambda _: None)
    assert taken == [2 * n for n in range(15)]
    assert again.source.read_ == [4, 5], "units 1, 2 and 3 hold rows 0 to 5, which were taken"
    noted = json.loads((tmp_path / "run" / "rows.json").read_text())
    assert noted == [[1, 1], [2, 1], [3, 1], [4, 1], [5, 1]]


def test_a_solver_may_go_back_behind_what_was_made(tmp_path):
    stream = line(tmp_path)
    rows = fed(stream, lambda units: map(stream.source.read, units))
    assert [n for batch in rows(9) for n in batch["n"].to_pylist()] == list(range(9, 15))
    assert [n for batch in rows(2) for n in batch["n"].to_pylist()] == list(range(2, 15))
    assert [n for batch in rows(14) for n in batch["n"].to_pylist()] == [14]
    assert list(rows(15)) == []


def test_a_refused_row_ends_the_stream_with_its_reason(tmp_path):
    stream = Stream("line", Counts(), Sum(str(tmp_path / "run")), (Step(Twice(refused=4)),))
    with pytest.raises(RunError, match=r"step twice refused a row of counts \[3:6\]: .*4 is not wanted; a stream"):
        Inline().stream(stream, lambda _: None)
    assert stream.into.taken == [0, 2, 4]


def test_other_rows_are_refused_in_the_middle_of_a_run(tmp_path):
    begin(line(tmp_path))
    begin(line(tmp_path))
    with pytest.raises(RunError, match="was begun with other settings, or on other rows; remove that"):
        begin(Stream("line", Counts(), Sum(str(tmp_path / "run"))))


def test_what_was_done_on_other_rows_is_not_taken_for_done(tmp_path):
    Inline().stream(line(tmp_path), lambda _: None)
    other = Stream("line", Counts(units_=7), Sum(str(tmp_path / "run"), taken=[0] * 15), (Step(Twice()),))
    with pytest.raises(RunError, match="was begun with other settings, or on other rows"):
        Inline().stream(other, lambda _: None)


def test_what_does_not_fit_is_refused_before_anything_is_made(tmp_path):
    @dataclass(frozen=True)
    class Texts(Twice):
        def schema(self, given):
            return pa.schema([("text", pa.string())])

    wrong = Stream("line", Counts(), Sum(str(tmp_path / "run")), (Step(Texts()),))
    with pytest.raises(SchemaError, match="line, solver: Sum needs a column n"):
        schemas(wrong)
    with pytest.raises(SchemaError, match="line, solver"), making(wrong):
        pass


def test_at_least_one_unit_is_made_ahead(tmp_path):
    with pytest.raises(ValueError, match="ahead is 0; at least one unit"):
        Stream("line", Counts(), Sum(str(tmp_path)), ahead=0)


def test_how_each_run_went_is_noted_beside_the_solver(tmp_path):
    stream, taken = line(tmp_path), []
    assert runs(stream.into.uri) == []
    assert rows_made(stream.into.uri) == (0, 0)
    with pytest.raises(RunError, match="dead"):
        Inline().stream(line(tmp_path, taken=taken, dies_after=8), lambda _: None)
    Inline().stream(line(tmp_path, taken=taken), lambda _: None)
    newest, oldest = runs(stream.into.uri)
    assert (oldest["ended"], oldest["told"]) == (False, {"solver_time": 8.0})
    assert (newest["ended"], newest["told"], newest["runner"]) == (True, {"solver_time": 15.0}, "inline")
    assert newest["started"] >= oldest["started"]
    assert newest["seconds"] >= 0
    assert rows_made(stream.into.uri) == (5, 15)
    Inline().stream(line(tmp_path, taken=taken), lambda _: None)
    assert len(runs(stream.into.uri)) == 2, "what is done is not run again"


def test_what_is_told_is_heard_and_what_is_not_known_is_noted_as_that(tmp_path):
    stream, said = line(tmp_path), []
    with recorded(stream, "inline", said.append) as told:
        told({"solver_time": 1.0, "solver_waited_seconds": float("nan")})
        told({"solver_time": 2.0})
    assert [facts["solver_time"] for facts in said] == [1.0, 2.0]
    assert runs(stream.into.uri)[0]["told"] == {"solver_time": 2.0, "solver_waited_seconds": None}


def test_the_newest_runs_are_kept(tmp_path):
    stream = line(tmp_path)
    for number in range(25):
        with recorded(stream, "inline", lambda _: None) as told:
            told({"solver_time": float(number)})
    assert [run["told"]["solver_time"] for run in runs(stream.into.uri)] == [float(n) for n in range(24, 4, -1)]
