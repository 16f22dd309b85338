"""Each module of infrastructure is validated alone: what a change needs, and that nothing else is even loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from penstock.errors import SpecError
from penstock.infra.affected import affected, graph

ROOT = Path(__file__).parents[3]
ARTEFACTS = ["access", "budget", "filesystem", "kuberay", "network", "parallelcluster", "ray_aws", "storage"]
TOGETHER = {"test_artefacts", "test_validate", "test_command"}
"""Tests of what uses every artefact."""


def needed_by(*changed):
    return {Path(name).stem for name in affected(ROOT, changed)}


@pytest.mark.parametrize("name", ARTEFACTS)
def test_a_change_of_one_module_needs_its_own_tests_and_those_of_the_whole(name):
    assert needed_by(f"src/penstock/infra/{name}.py") == {f"test_{name}", *TOGETHER}


@pytest.mark.parametrize("name", ARTEFACTS)
def test_a_module_is_loaded_without_any_other_artefact(name):
    code = f"import sys, penstock.infra.{name}; print(*(m for m in sys.modules if m.startswith('penstock.infra')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    loaded = {module.removeprefix("penstock.infra").strip(".") for module in done.stdout.split()}
    assert loaded - {"", "deployment", "stack"} == {name}


def test_a_rule_needs_no_artefacts_tests():
    assert needed_by("src/penstock/infra/policies/kubernetes.py") == {"test_validate", "test_command", "test_docs"}


def test_what_all_share_needs_all():
    every = {f"test_{name}" for name in ARTEFACTS}
    assert needed_by("src/penstock/infra/deployment.py") >= every | TOGETHER
    assert needed_by("deploy/deploy.toml") >= every | TOGETHER
    assert needed_by("src/penstock/infra/stack.py") & every == {
        f"test_{name}" for name in ("access", "budget", "filesystem", "network", "storage")
    }


def test_a_golden_file_needs_the_test_that_names_it():
    found = needed_by("deploy/rendered/cloudformation/budget.yaml")
    assert "test_budget" in found
    assert not found & {f"test_{name}" for name in ARTEFACTS if name != "budget"}


def test_several_changes_need_the_tests_of_each():
    both = needed_by("src/penstock/infra/storage.py", "src/penstock/infra/budget.py")
    assert both == {"test_storage", "test_budget", *TOGETHER}


def test_a_file_that_nothing_uses_needs_nothing():
    assert affected(ROOT, ["no/such/file.py"]) == []


def test_elsewhere_it_says_so(tmp_path):
    with pytest.raises(SpecError, match="a checkout of Penstock was needed"):
        affected(tmp_path, ["a.py"])


def test_the_graph_follows_imports_only_where_they_lead():
    used = graph(ROOT)["src/penstock/infra/storage.py"]
    assert used >= {"src/penstock/infra/deployment.py", "src/penstock/infra/stack.py"}
    assert "src/penstock/infra/network.py" not in used
