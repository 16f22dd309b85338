import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock.commands.infra import infra
from penstock.infra import checks

ROOT = Path(__file__).parents[3]


@pytest.fixture
def call(tmp_path, monkeypatch):
    shutil.copy(ROOT / "deploy" / "deploy.toml", tmp_path / "deploy.toml")
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(infra, [str(word) for word in words])


def test_render_writes_shows_and_is_quiet_the_second_time(call, tmp_path):
    first = call("render", "deploy.toml", "--out", "made")
    assert first.exit_code == 0
    assert "+++ b/cloudformation/storage.yaml" in first.output
    assert "11 of 11 files changed in made" in first.output
    again = call("render", "deploy.toml", "--out", "made", "--check")
    assert (again.exit_code, again.output.strip()) == (0, "0 of 11 files would change in made")


def test_check_shows_the_difference_writes_nothing_and_exits_1(call, tmp_path):
    call("render", "deploy.toml", "--out", "made")
    file = tmp_path / "deploy.toml"
    file.write_text(file.read_text().replace("monthly_usd = 500", "monthly_usd = 700"))
    asked = call("render", "deploy.toml", "--out", "made", "--check")
    assert asked.exit_code == 1
    lines = [line.strip() for line in asked.output.splitlines() if line[:1] in "+-"]
    assert lines == ["--- a/cloudformation/budget.yaml", "+++ b/cloudformation/budget.yaml", *lines[2:]]
    assert [line.split() for line in lines[2:]] == [["-", "Amount:", "500"], ["+", "Amount:", "700"]]
    assert "Amount: 500" in (tmp_path / "made/cloudformation/budget.yaml").read_text()


def test_a_wrong_file_ends_with_2_and_what_to_do(call, tmp_path):
    (tmp_path / "deploy.toml").write_text("name = 3\n")
    asked = call("render", "deploy.toml")
    assert asked.exit_code == 2


def test_validate_prints_findings_one_a_line_and_exits_1(call, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "cfn_lint", lambda folder, names: iter(()))
    call("render", "deploy.toml", "--out", "made")
    assert call("validate", "made", "--no-rehearse").exit_code == 0
    file = tmp_path / "made/cloudformation/storage.yaml"
    file.write_text(file.read_text().replace("Status: Enabled\n", "Status: Suspended\n", 1))
    asked = call("validate", "made", "--no-rehearse")
    assert asked.exit_code == 1
    (line,) = [line for line in asked.output.splitlines() if line.startswith("cloudformation/")]
    assert line == (
        "cloudformation/storage.yaml:Resources.Data.Properties.VersioningConfiguration S3-VERSIONS "
        "A bucket keeps versions (found: Suspended). Set VersioningConfiguration: {Status: Enabled}."
    )


def test_rules_lists_them(call):
    assert "S3-PUBLIC" in call("rules").output


def test_affected_prints_tests(call):
    asked = call("affected", "src/penstock/infra/budget.py", "--root", ROOT)
    assert "tests/unit/infra/test_budget.py" in asked.output.splitlines()
    assert "tests/unit/infra/test_storage.py" not in asked.output.splitlines()
