import json
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from penstock.cli import app

PIPELINE = """
source = { use = "fasta", uri = "chains.fasta" }
sink = { use = "parquet", uri = "out" }
max_bad_rows = 1

[[step]]
use = "clean"
alphabet = "protein"
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "chains.fasta").write_text(">a\nMKT\n>b\nM1T\n>c\nGAV\n")
    path = tmp_path / "line.toml"
    path.write_text(PIPELINE)
    return path


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_run_ends_with_a_summary_and_a_second_run_skips(file):
    first, second = call("run", file), call("run", file)
    assert first.exit_code == 0, first.output
    assert "line: 2 rows, 1 units (0 were done before), 1 rows quarantined" in first.stdout
    assert "1 units (1 were done before)" in second.stdout


def test_the_version_is_told():
    done = call("--version")
    assert (done.exit_code, done.stdout) == (0, f"penstock {version('penstock')}\n")


def test_check_shows_columns_rows_and_place(file):
    done = call("check", file)
    assert done.exit_code == 0, done.output
    assert "after clean" in done.stdout
    assert "sequence: string" in done.stdout
    assert "about 3" in done.stdout
    assert not (file.parent / "out").exists(), "nothing was started"


def test_a_misspelt_key_is_answered_with_file_line_and_the_nearest_key(file):
    file.write_text(PIPELINE.replace("alphabet", "alfabet"))
    done = call("check", file)
    assert done.exit_code == 2
    assert f"{file}:8: step.0.alfabet: 'alfabet' is not known here; did you mean 'alphabet'?" in done.stderr


def test_values_can_be_changed_on_the_command_line(file):
    done = call("run", file, "--set", "max_bad_rows=0")
    assert done.exit_code == 1
    assert "1 rows were quarantined, max_bad_rows allows 0" in done.stderr


def test_a_missing_source_is_an_error_without_a_traceback(file):
    (file.parent / "chains.fasta").unlink()
    done = call("run", file)
    assert done.exit_code == 1
    assert "no such file or folder; check the spelling" in done.stderr
    assert "Traceback" not in done.output


def test_show_prints_the_manifest_as_json(file):
    call("run", file)
    done = call("show", file.parent / "out")
    assert json.loads(done.stdout)["rows"] == 2


def test_verify_finds_a_damaged_part(file):
    call("run", file)
    assert call("verify", file.parent / "out").exit_code == 0
    [part] = (file.parent / "out" / "parts").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    done = call("verify", file.parent / "out")
    assert done.exit_code == 1
    assert part.name in done.stderr


def test_list_names_every_kind_and_schema_is_json():
    assert all(word in call("list").stdout for word in ("fasta", "encode", "hdf5", "local", "inline"))
    assert json.loads(call("schema").stdout)["title"] == "Penstock pipeline file"
