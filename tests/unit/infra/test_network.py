from penstock.infra.network import render

FILE = "cloudformation/network.yaml"


def test_the_network_is_as_it_was(example, golden):
    assert render(example) == {FILE: golden(FILE)}


def test_there_is_no_way_to_the_internet(example):
    kinds = {one["Type"] for one in render(example)[FILE]["Resources"].values()}
    assert not kinds & {"AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::Route", "AWS::EC2::EIP"}


def test_endpoints_that_parallelcluster_needs_without_internet_are_there(example):
    ends = [one["Properties"] for one in render(example)[FILE]["Resources"].values() if "Endpoint" in one["Type"]]
    services = {one["ServiceName"]["Fn::Sub"].rpartition("}.")[2] for one in ends}
    assert services >= {"logs", "cloudformation", "ec2", "s3", "dynamodb"}
    gateways = {one["ServiceName"]["Fn::Sub"] for one in ends if one["VpcEndpointType"] == "Gateway"}
    assert {name.rpartition("}.")[2] for name in gateways} == {"s3", "dynamodb"}


def test_each_range_is_a_subnet_that_others_can_import(changed):
    three = '"10.20.0.0/18", "10.20.64.0/18", "10.20.128.0/18"'
    made = render(changed('"10.20.0.0/18", "10.20.64.0/18"', three))[FILE]
    assert [
        made["Resources"][f"Subnet{at}"]["Properties"]["AvailabilityZone"]["Fn::Select"][0] for at in (1, 2, 3)
    ] == [
        0,
        1,
        2,
    ]
    assert made["Outputs"]["Subnet3"]["Export"] == {"Name": "penstock-subnet-3"}
