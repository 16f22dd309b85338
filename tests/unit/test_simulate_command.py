"""``penstock check --simulate`` and ``penstock run --sample``."""

import json

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.commands.simulate import hardware
from penstock.core.dataset import existing
from penstock.core.plan import Resources
from penstock.errors import SpecError

HERE = Resources(2, 0, 1 << 34, "a test")
PIPELINES = """
[pipeline.lines]
source = { use = "fasta", uri = "chains.fasta", unit_bytes = 50 }
sink = { use = "parquet", uri = "lines" }

[[pipeline.lines.step]]
use = "clean"
alphabet = "protein"
place = { kind = "actor", replicas = [1, 4000] }

[pipeline.second]
source = { use = "dataset", uri = "lines" }
sink = { use = "parquet", uri = "second" }
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "chains.fasta").write_text("".join(f">s{at}\n{'MKTGAV' * 5}\n" for at in range(100)))
    path = tmp_path / "line.toml"
    path.write_text(PIPELINES)
    return path


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_sample_is_a_dataset_beside_the_real_one_from_which_a_cluster_is_foretold(file):
    done = call("run", file, "--sample", 5)
    assert done.exit_code == 0, done.output
    assert "second: no sample, since it reads what another pipeline has yet to make" in done.stderr
    assert not (file.parent / "lines").exists()
    sample = existing(str(file.parent / "lines-sample"))
    assert len(sample.parts()) == 5
    told = call("check", file, "--only", "lines", "--simulate", "nodes=128,cpus=32,usd_per_hour=3.1")
    assert told.exit_code == 0, told.output
    assert "lines, simulated on 128 nodes with 32 cpus" in told.stdout
    for word in ("units", "a second", "node hours", "USD", "read+clean+write", "limit"):
        assert word in told.stdout


def test_a_sample_of_what_is_there_is_made_of_every_pipeline(file):
    assert call("run", file).exit_code == 0
    done = call("run", file, "--sample", 5)
    assert done.exit_code == 0, done.output
    assert existing(str(file.parent / "second-sample")).rows < existing(str(file.parent / "second")).rows
    facts = [json.loads(path.read_text()) for path in (file.parent / "lines-sample" / "runs").glob("*.json")]
    assert [fact["units"] for fact in facts] == [5]


def test_without_a_measured_run_the_command_that_makes_one_is_told(file):
    done = call("check", file, "--only", "lines", "--simulate", "nodes=4")
    assert done.exit_code == 1
    assert "lines: nothing was measured yet" in done.stderr
    assert "penstock run FILE --only lines --sample 20" in done.stderr


def test_a_run_of_another_line_is_not_taken_for_this_one(file):
    assert call("run", file, "--only", "lines").exit_code == 0
    file.write_text(
        PIPELINES.replace("[pipeline.second]", '[[pipeline.lines.step]]\nuse = "clean"\n\n[pipeline.second]')
    )
    done = call("check", file, "--only", "lines", "--simulate", "nodes=4")
    assert done.exit_code == 1
    assert (
        "what was measured is another line, read, 1-clean, write and not read, 1-clean, 2-clean, write" in done.stderr
    )


def test_hardware_is_this_machine_where_nothing_is_said():
    given = hardware("nodes=4, gpus=2,usd_per_hour=3.1", HERE)
    assert (given.nodes, given.cpus, given.gpus, given.usd_per_hour) == (4, 2, 2, 3.1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("node=4", "'node' is not known; known are nodes, cpus, gpus, memory_gib"),
        ("nodes=many", "nodes: Input should be a valid integer, unable to parse string as an integer; found 'many'"),
        ("nodes=0", "nodes must be at least 1"),
    ],
)
def test_hardware_that_cannot_be_understood_is_answered(words, said):
    with pytest.raises(SpecError, match=said.replace("(", r"\(")):
        hardware(words, HERE)


def test_hardware_on_which_the_pools_find_no_room_is_refused(file):
    file.write_text(PIPELINES.replace("replicas = [1, 4000]", "replicas = [1, 4000], gpus = 1"))
    assert call("run", file, "--only", "lines").exit_code == 0
    done = call("check", file, "--only", "lines", "--simulate", "nodes=2,cpus=4,gpus=0")
    assert done.exit_code == 1
    assert "read+clean 1 x 1 = 1 of 0 (2 nodes)" in done.stderr


def test_a_sample_is_no_larger_than_what_the_file_allows(file):
    file.write_text(PIPELINES.replace("[[pipeline.lines.step]]", "max_units = 3\n\n[[pipeline.lines.step]]", 1))
    assert call("run", file, "--only", "lines", "--sample", 5).exit_code == 0
    assert len(existing(str(file.parent / "lines-sample")).parts()) == 3


@pytest.mark.parametrize("limit", ["max_units = -1", "record_units = 0"])
def test_units_cannot_be_fewer_than_none(file, limit):
    file.write_text(PIPELINES.replace("[[pipeline.lines.step]]", f"{limit}\n\n[[pipeline.lines.step]]", 1))
    done = call("check", file)
    assert done.exit_code == 2
    assert f"{limit.split(' ')[0]}: Input should be greater than or equal to" in done.stderr
