from penstock.infra.access import render

FILE = "cloudformation/access.yaml"


def statements(made, role):
    return made[FILE]["Resources"][role]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]


def test_roles_are_as_they_were(example, golden):
    assert render(example) == {FILE: golden(FILE)}


def test_workers_read_raw_data_and_write_datasets_alone(example):
    by_name = {one["Sid"]: one for one in statements(render(example), "RayNode")}
    assert set(by_name) == {"List", "Read", "Write"}
    assert by_name["Write"]["Resource"] == {"Fn::Sub": "arn:${AWS::Partition}:s3:::penstock-example-data/datasets/*"}
    assert "s3:PutObject" in by_name["Write"]["Action"]


def test_the_head_ends_only_machines_of_its_own_cluster(example):
    by_name = {one["Sid"]: one for one in statements(render(example), "RayHead")}
    assert by_name["EndOwn"]["Condition"] == {"StringEquals": {"aws:ResourceTag/ray-cluster-name": "penstock"}}
    assert by_name["Hand"]["Resource"] == {"Fn::GetAtt": ["RayNode", "Arn"]}


def test_only_looking_has_a_star_for_its_resource(example):
    stars = [one["Sid"] for one in statements(render(example), "RayHead") if one["Resource"] == "*"]
    assert stars == ["Look"]
