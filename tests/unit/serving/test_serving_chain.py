from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from penstock.core.nouns import Pipeline, Place, Step
from penstock.core.spec import Spec
from penstock.errors import PlanError, SchemaError, SpecError
from penstock.serving.chain import MARK, Refused, Schemas, chain_at, marked, opened
from penstock.sinks.parquet import Parquet
from penstock.solvers.neighbours import Neighbours
from penstock.sources.dataset import Dataset
from penstock.stages.clean import Clean
from penstock.stages.tokens import Tokens
from penstock.testing.parts import Numbers, Squares


def line(name, *stages, source=None):
    return Pipeline(name, source or Numbers(), Parquet(f"out/{name}"), tuple(Step(stage) for stage in stages))


TWO = Spec((line("a", Squares(), Clean(column="name"), Squares()), line("a.b", Clean(column="name"), Squares())))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("a", ("1-squares", "2-clean", "3-squares")),
        ("a.2", ("2-clean",)),
        ("a.clean", ("2-clean",)),
        ("a.clean:3", ("2-clean", "3-squares")),
        ("a.:clean", ("1-squares", "2-clean")),
        ("a.2:", ("2-clean", "3-squares")),
    ],
)
def test_an_address_names_a_pipeline_a_step_or_a_range(address, expected):
    assert chain_at(TWO, address).names == expected


def test_a_pipelines_name_may_be_left_out_where_it_is_clear():
    one = Spec((line("only", Clean(column="name"), Squares()),))
    assert chain_at(one).names == ("1-clean", "2-squares")
    assert chain_at(one, "squares").names == chain_at(one, ".squares").names == ("2-squares",)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("", r"several pipelines; write FILE#PIPELINE.*a \(squares, clean, squares\), a.b \(clean, squares\)"),
        ("c", "'c' names no pipeline and no step of one alone"),
        ("a.squares", r"a: 2 steps are called 'squares'; give one of: 1 \(squares\), 2 \(clean\), 3 \(squares\)"),
        ("a.4", "a: there is no step '4'"),
        ("a.3:1", "a: no steps lie in '3:1'"),
    ],
)  # fmt: skip
def test_an_address_that_names_nothing_is_answered_with_what_there_is(address, text):
    with pytest.raises(SpecError, match=text):
        chain_at(TWO, address)


def test_a_step_that_needs_a_whole_dataset_is_refused_and_those_before_it_are_served():
    solver = line("graph", Neighbours(k=3), Squares(), source=Dataset("data", whole=True))
    with pytest.raises(SpecError, match="step 1-neighbours needs a whole dataset and gives rows of its own"):
        chain_at(Spec((solver,)))


def test_columns_that_cannot_be_told_are_asked_for(tmp_path):
    spec = Spec((line("later", Clean(column="text"), source=Dataset(str(tmp_path))),))
    with pytest.raises(PlanError, match=r"later: the columns of a request cannot be told .*; say them by --column"):
        chain_at(spec)
    assert chain_at(spec, given=pa.schema([("text", pa.string())])).needed == ("text",)


def test_only_what_the_steps_use_is_needed():
    assert chain_at(TWO, "a.2").given.names == ["number", "name", "powers"]
    assert chain_at(TWO, "a.2").needed == ("name",)


def test_columns_that_steps_before_add_may_be_sent():
    assert chain_at(TWO, "a.2:3").given.names == ["number", "name", "powers"]


def test_the_part_that_makes_tokens_is_done_at_the_door():
    spec = Spec((line("t", Clean(column="name"), Tokens("residue:dna", column="name"), Clean(column="name")),))
    head, body = chain_at(spec).cut()
    assert (head.names, body.names) == (("1-clean", "2-tokens"), ("3-clean",))
    assert body.given.names == ["number", "name", "input_ids"]
    head, body = chain_at(spec, "t.1:2").cut()
    assert (head.names, body.names) == ((), ("1-clean", "2-tokens")), "all of them would leave nothing to batch"
    assert chain_at(spec, "t.3").cut()[0].names == ()


def test_steps_that_compare_rows_keep_requests_apart():
    assert chain_at(TWO, "a").merges
    spec = Spec((line("u", Clean(column="name", unique=("name",))),))
    assert not chain_at(spec).merges


def test_a_worker_needs_what_all_its_steps_need():
    places = (
        Place("task", cpus=2, memory_bytes=5),
        Place("actor", replicas=(2, 3), gpus=0.5, memory_bytes=7),
        Place(cpus=9),
    )
    steps = tuple(Step(Squares(), place) for place in places)
    chain = chain_at(Spec((replace(line("p"), steps=steps),)))
    assert chain.place == Place("actor", replicas=(2, 3), cpus=2, gpus=0.5, memory_bytes=12)


def test_rows_are_told_apart_whatever_the_steps_leave_out():
    chain = chain_at(Spec((line("x", Squares(bad=(3, 5)), Clean(column="name", min_length=2)),)))
    batch = pa.table({"number": list(range(8)), "name": ["nn", "n", *["nn"] * 6]})
    with opened(chain) as live:
        found = live(marked(batch, np.arange(8) + 100))
    assert found.good[MARK].to_pylist() == [100, 102, 104, 106, 107]
    assert found.good["number"].to_pylist() == [0, 2, 4, 6, 7]
    assert [(one.row, one.step) for one in found.bad] == [(103, "1-squares"), (105, "1-squares"), (101, "2-clean")]
    assert found.bad[0] == Refused(103, "1-squares", "ValueError: the number 3 is bad")


def test_an_error_of_columns_does_not_speak_of_marks():
    with pytest.raises(SchemaError, match=r"step 2-clean: clean needs a column 'name'; there are: number$"):
        Schemas(chain_at(TWO, "a.2"))(pa.schema([("number", pa.int64()), (MARK, pa.int64())]))
