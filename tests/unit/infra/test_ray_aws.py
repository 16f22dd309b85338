from penstock.infra.ray_aws import render

FILE = "ray/cluster.yaml"


def test_the_cluster_is_as_it_was(example, golden):
    assert render(example) == {FILE: golden(FILE)}


def test_the_cluster_has_no_more_workers_than_its_kinds(example):
    cluster = render(example)[FILE]
    kinds = cluster["available_node_types"]
    assert cluster["max_workers"] == sum(kind.get("max_workers", 0) for kind in kinds.values()) == 10
    assert cluster["head_node_type"] in kinds


def test_machines_have_the_roles_of_the_stack_access(example):
    kinds = render(example)[FILE]["available_node_types"]
    profiles = {name: kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in kinds.items()}
    assert profiles == {"head": "penstock-ray-head", "cpu": "penstock-ray-node", "gpu": "penstock-ray-node"}


def test_nobody_outside_reaches_a_node(example):
    cluster = render(example)[FILE]
    assert cluster["provider"]["use_internal_ips"] is True
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][1]
