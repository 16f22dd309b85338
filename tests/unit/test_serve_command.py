"""What `penstock serve` reads, refuses and draws, before anything is served."""

import json

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.commands import serve as command
from penstock.core import spec
from penstock.errors import PlanError, SchemaError, SpecError
from penstock.runners.inline import Inline
from penstock.serving.chain import chain_at

PIPELINE = """
[report]
pipeline = "line"
map = "profile"
colour = ["kind"]

[pipeline.line]
source = { use = "jsonl", uri = "in.jsonl", columns = { name = "string", kind = "string" } }
sink = { use = "parquet", uri = "out" }

[[pipeline.line.step]]
use = "function"
function = "profiles:profile"
adds = { profile = "float32[4]" }
"""

PROFILES = """
import numpy as np
from penstock.core.batch import tensor_column, with_columns

def profile(batch):
    rows = [[text.count(letter) for letter in "abcd"] for text in batch["name"].to_pylist()]
    return with_columns(batch, {"profile": tensor_column(np.array(rows, np.float32))})
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "profiles.py").write_text(PROFILES)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [{"name": "abcd"[n % 4] * (1 + n // 4), "kind": "xy"[n % 2]} for n in range(20)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "line.toml").write_text(PIPELINE)
    return tmp_path


def call(*words, env=None):
    return CliRunner().invoke(app, ["serve", *map(str, words)], env=env)


def test_what_is_not_there_is_answered_with_what_is(folder):
    file = folder / "line.toml"
    missing = call(f"{file}#nothing")
    assert missing.exit_code == 2
    assert "there are: line (function)" in missing.stderr
    assert (
        "--runner cloud is not known here; ray or inline was needed"
        in call(file, "--runner", "cloud", "--port", 0).stderr
    )
    assert "--column name cannot be understood" in call(file, "--column", "name").stderr
    assert "no-such/token" in call(file, "--token-file", "no-such/token").stderr


def test_packages_that_are_missing_are_told_with_the_command_that_brings_them(folder, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "fastapi" else name)
    lacking = call(folder / "line.toml")
    assert lacking.exit_code == 1
    assert "serving needs fastapi: pip install 'penstock[serve]'" in lacking.stderr


def test_a_port_that_is_taken_is_told(folder):
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = call(folder / "line.toml", "--runner", "inline", "--port", other.getsockname()[1])
    assert taken.exit_code == 1
    assert "cannot be listened at: Address already in use; choose another by --port" in taken.stderr


def test_a_token_comes_from_the_environment_or_a_file_and_is_long_enough(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("t" * 20 + "\n")
    assert command._token(file) == "t" * 20
    monkeypatch.setenv("PENSTOCK_TOKEN", "e" * 16)
    assert command._token(None) == "e" * 16
    monkeypatch.setenv("PENSTOCK_TOKEN", "")
    with pytest.raises(SpecError, match=r"the token in \$PENSTOCK_TOKEN has 0 characters, at least 16 were needed"):
        command._token(None)
    monkeypatch.delenv("PENSTOCK_TOKEN")
    assert command._token(None) == ""


def test_no_option_takes_a_token_itself():
    assert "--token " not in CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).stdout


def test_the_map_is_the_reports_once_its_dataset_is_there(folder):
    found = spec.load(folder / "line.toml")
    chain = chain_at(found)
    assert command._atlas(found, chain, "", "") is None, "nothing was run yet"
    Inline().run(found.pipeline("line"))
    atlas = command._atlas(found, chain, "", "")
    assert (atlas.column, len(atlas.names), set(atlas.groups)) == ("profile", 20, {"x", "y"})
    assert atlas.names[:2] == ["a", "b"]
    assert atlas.places.shape == (20, 2)
    (told,) = atlas.nearest(pa.table({"profile": atlas_column([[0, 0, 2, 0]])}), 3)
    assert told["neighbours"][0]["name"] in {"c" * n for n in range(1, 6)}
    assert command._atlas(spec.Spec(found.pipelines), chain, str(folder / "out"), "").column == "profile"


def atlas_column(rows):
    from penstock.core.batch import tensor_column

    return tensor_column(np.array(rows, np.float32))


def test_a_map_that_does_not_fit_the_answers_is_refused(folder):
    found = spec.load(folder / "line.toml")
    Inline().run(found.pipeline("line"))
    given = pa.schema([("kind", pa.string())])
    clean = spec.loads(
        PIPELINE.replace('"function"', '"clean"').split("function =")[0] + 'column = "kind"', folder=folder
    )
    with pytest.raises(
        SchemaError, match="the map is of 'profile' with 4 numbers a row; the answers have no such column"
    ):
        command._atlas(clean, chain_at(clean, given=given), str(folder / "out"), "")
    with pytest.raises(PlanError, match="has no tensor column 'kind'; there are: profile"):
        command._atlas(found, chain_at(found), str(folder / "out"), "kind")
    assert command._atlas(clean, chain_at(clean, given=given), "", "") is None, "nobody asked for it"
