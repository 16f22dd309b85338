import dataclasses

import pytest

from penstock.errors import SpecError
from penstock.infra.deployment import load, loads


def test_the_example_is_read(example):
    assert example.storage.bucket == "penstock-example-data"
    assert [queue.name for queue in example.cluster.queue] == ["cpu", "mpi", "gpu"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        example.name = "other"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"penstock-example-data"', '"Bad_Name"', "storage.bucket is 'Bad_Name'; 3 to 63 lower-case letters"),
        ("capacity_gib = 1200", "capacity_gib = 1300", "filesystem.capacity_gib is 1300; 1200, 2400 or a multiple"),
        ("per_tib = 125", "per_tib = 126", "per_tib is 126; 125, 250, 500 or 1000 was needed: change it"),
        ("noncurrent_days", "noncurent_days", "noncurent_days is not known; did you mean noncurrent_days?"),
        ('email = "ops@example.org"', "", "budget.email is missing; an address"),
        ("max_nodes = 8", "max_nodes = 1\nmin_nodes = 3", "cluster.queue.0: min_nodes 3 is more than max_nodes 1"),
        ("max_workers = 8", "max_workers = 1\nmin_workers = 3", "ray.node.0: min_workers 3 is more than"),
        ('"penstock/ray:0.1.0"', '"ghcr.io/penstock/ray:1"', "an image with its tag and without a registry's host"),
        ('"penstock/ray:0.1.0"', '"penstock/ray"', "kubernetes.image is 'penstock/ray'"),
        ('head_instance = "t3.medium"', 'accounting_uri = "db:3306"', "accounting_uri and accounting_secret come"),
        ("[50, 80, 100]", "[80, 50]", "budget.alarm_percent is [80, 50]; 1 to 5 percentages that ascend"),
        ('"subnet-0123456789abcdef0"', '"subnet-x"', "made.subnet is 'subnet-x'; an output of the stack network"),
        ('region = "eu-central-1"', 'region = "here"', "region is 'here'; a region of AWS"),
    ],
)
def test_an_error_says_what_was_found_and_needed(changed, old, new, told):
    with pytest.raises(SpecError) as error:
        changed(old, new)
    assert "deploy.toml: " in str(error.value)
    assert told in str(error.value)


def test_what_is_no_toml_or_not_there_is_told(tmp_path):
    with pytest.raises(SpecError, match="no TOML was found"):
        loads("name = ")
    with pytest.raises(SpecError, match=r"a deploy\.toml was needed: copy deploy/deploy\.toml"):
        load(tmp_path / "nothing.toml")
