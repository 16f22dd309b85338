import json

import pytest
from typer.testing import CliRunner

from penstock.cli import app

PIPELINE = """
source = { use = "fasta", uri = "chains.fasta" }
sink = { use = "parquet", uri = "out" }

[[step]]
use = "clean"
alphabet = "protein"
"""


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def file(tmp_path):
    (tmp_path / "chains.fasta").write_text(">a\nMKT\n>b\nM1T\n>c\nGAV\n")
    path = tmp_path / "line.toml"
    path.write_text(PIPELINE)
    return path


def test_a_step_is_recorded_and_replayed(file):
    done = call("run", file, "--record", "clean")
    assert done.exit_code == 0, done.output
    (folder,) = (file.parent / "out" / "recorded").iterdir()
    assert f"recorded; try that step again by: penstock stage replay {folder}" in done.stdout
    again = call("stage", "replay", folder, "--profile")
    assert again.exit_code == 0, again.output
    assert "equal: 1 units, 3 rows" in again.stdout
    assert "peak memory of this process:" in again.stdout


def test_a_difference_is_shown_and_ends_with_status_1(file):
    call("run", file, "--record", "1-clean", "--record-units", 1)
    (folder,) = (file.parent / "out" / "recorded").iterdir()
    done = call("stage", "replay", folder, "--set", "alphabet=dna")
    assert done.exit_code == 1
    assert "1 of 1 units differ" in done.stderr
    assert (
        "1 rows are refused, 1 were, the first now: sequence has '1' at position 2, which is no letter of 'dna'"
        in done.stdout
    )
    assert call("stage", "replay", folder, "--set", "alphabet").exit_code == 2


def test_a_second_run_has_nothing_to_record(file):
    call("run", file)
    done = call("run", file, "--record", "clean")
    assert done.exit_code == 0
    assert "nothing is recorded: all units of line were done before; write to another place" in done.stderr


def test_a_step_that_is_not_there(file):
    done = call("run", file, "--record", "encode")
    assert done.exit_code == 2
    assert "there is no step 'encode', so it cannot be recorded; name one of: 1-clean" in done.stderr
    assert call("run", file, "--record", "clean", "--record-units", 0).exit_code == 2


def test_the_recording_says_how_the_stage_was_set(file):
    call("run", file, "--record", "1")
    (about,) = (file.parent / "out" / "recorded").glob("*/recording.json")
    assert json.loads(about.read_text())["stage"] == {"use": "clean", "alphabet": "protein"}


def test_a_step_that_the_file_records_already_can_be_asked_for(file):
    file.write_text('record = "1"\n' + PIPELINE)
    done = call("run", file, "--record", "clean")
    assert done.exit_code == 0, done.output
    assert "recorded; try that step again by" in done.stdout
