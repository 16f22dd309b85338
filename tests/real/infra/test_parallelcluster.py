"""ParallelCluster's own package reads what we render, and finds what is planted; moto stands for AWS."""

import os
from pathlib import Path

import pytest
import yaml

from penstock.infra import checks

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "deploy" / "rendered" / "parallelcluster" / "cluster.yaml"


@pytest.fixture
def examined(tmp_path, monkeypatch):
    python = Path(os.environ.get(checks.TOOLS) or ROOT / ".cache/infra-tools/bin/python")
    if not python.exists():
        pytest.fail(f"{python} is missing; run scripts/infra-tools")
    monkeypatch.setenv(checks.TOOLS, str(python))

    def examine(change):
        data = yaml.safe_load(GOLDEN.read_text())
        change(data)
        (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
        return list(checks.parallelcluster(tmp_path, {"cluster.yaml": data}))

    return examine


def test_what_we_render_passes_the_schema_and_the_dry_run(examined):
    assert examined(lambda data: None) == []


def queue(data, at=0):
    return data["Scheduling"]["SlurmQueues"][at]


@pytest.mark.parametrize(
    ("plant", "rule", "told"),
    [
        (lambda data: data.update(Sheduling=1), "PC-SCHEMA", "Unknown field"),
        (lambda data: data["Image"].update(Os="debian12"), "PC-SCHEMA", "Must be one of"),
        (lambda data: data["SharedStorage"][0].pop("MountDir"), "PC-SCHEMA", "Missing data"),
        (lambda data: queue(data)["ComputeResources"][0].update(MinCount=9), "PC-DRYRUN", "ComputeResourceSize"),
        (lambda data: queue(data).update(Name="Bad_Name"), "PC-DRYRUN", "NameValidator"),
        (lambda data: queue(data)["ComputeResources"][0].update(InstanceType="c5.tiny"), "PC-DRYRUN", "c5.tiny"),
    ],
)
def test_a_planted_error_is_found(examined, plant, rule, told):
    found = examined(plant)
    assert any(one.rule == rule and told in one.sentence for one in found), found
