"""A VPC with private subnets and no way to the internet; AWS itself is reached by endpoints.

Sources: CloudFormation, ``AWS::EC2::VPC``, ``Subnet``, ``SecurityGroup``, ``VPCEndpoint``; ParallelCluster guide, "AWS
ParallelCluster in a single subnet with no internet access" (logs, cloudformation, ec2, s3, dynamodb); FSx for Lustre
user guide, "File system access control with Amazon VPC"; EC2 user guide, "Get started with EFA" (a group that speaks to
itself).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.infra.deployment import Deployment, Files
from penstock.infra.stack import exported, stack, sub

__all__ = ["render"]

_GATEWAYS = ("s3", "dynamodb")
_INTERFACES = (
    "cloudformation",
    "ec2",
    "ec2messages",
    "ecr.api",
    "ecr.dkr",
    "logs",
    "monitoring",
    "secretsmanager",
    "ssm",
    "ssmmessages",
    "sts",
)


def render(deployment: Deployment) -> Files:
    """The stack ``NAME-network``."""
    name, network = deployment.name, deployment.network
    subnets = {f"Subnet{at}": _subnet(at, cidr) for at, cidr in enumerate(network.subnet_cidrs, 1)}
    routes = {f"Subnet{at}Routes": _joined(at) for at, _ in enumerate(network.subnet_cidrs, 1)}
    resources = {
        "Vpc": _vpc(name, network.vpc_cidr),
        **subnets,
        "Routes": {"Type": "AWS::EC2::RouteTable", "Properties": {"VpcId": {"Ref": "Vpc"}}},
        **routes,
        **_nodes(network.vpc_cidr),
        "EndpointsGroup": _group("HTTPS to AWS from inside", network.vpc_cidr, 443),
        **{_logical(service): _gateway(service) for service in _GATEWAYS},
        **{_logical(service): _interface(service) for service in _INTERFACES},
    }
    title = f"{name}: a private network with endpoints"
    return {"cloudformation/network.yaml": stack(title, resources, _outputs(name, subnets))}


def _outputs(name: str, subnets: Mapping[str, Any]) -> dict[str, Any]:
    told = "made.subnet of deploy.toml"
    return {
        "Vpc": exported(f"{name}-vpc", {"Ref": "Vpc"}, "The network"),
        **{each: exported(f"{name}-subnet-{at}", {"Ref": each}, told) for at, each in enumerate(subnets, 1)},
        "SecurityGroup": exported(
            f"{name}-security-group", {"Fn::GetAtt": ["Nodes", "GroupId"]}, "made.security_group of deploy.toml"
        ),
    }


def _vpc(name: str, cidr: str) -> dict[str, Any]:
    properties = {"CidrBlock": cidr, "EnableDnsSupport": True, "EnableDnsHostnames": True}
    return {"Type": "AWS::EC2::VPC", "Properties": properties | {"Tags": [{"Key": "Name", "Value": name}]}}


def _subnet(at: int, cidr: str) -> dict[str, Any]:
    zone = {"Fn::Select": [at - 1, {"Fn::GetAZs": ""}]}
    properties = {"VpcId": {"Ref": "Vpc"}, "CidrBlock": cidr, "AvailabilityZone": zone, "MapPublicIpOnLaunch": False}
    return {"Type": "AWS::EC2::Subnet", "Properties": properties}


def _joined(at: int) -> dict[str, Any]:
    properties = {"SubnetId": {"Ref": f"Subnet{at}"}, "RouteTableId": {"Ref": "Routes"}}
    return {"Type": "AWS::EC2::SubnetRouteTableAssociation", "Properties": properties}


def _nodes(cidr: str) -> dict[str, Any]:
    """The group of compute nodes and of Lustre: everything among themselves, SSH from inside."""
    itself = {"IpProtocol": "-1", "GroupId": {"Fn::GetAtt": ["Nodes", "GroupId"]}}
    came = itself | {"SourceSecurityGroupId": {"Fn::GetAtt": ["Nodes", "GroupId"]}, "Description": "Ray, MPI, Lustre"}
    goes = itself | {
        "DestinationSecurityGroupId": {"Fn::GetAtt": ["Nodes", "GroupId"]},
        "Description": "EFA asks for it",
    }
    return {
        "Nodes": _group("Compute nodes and Lustre", cidr, 22),
        "NodesIngress": {"Type": "AWS::EC2::SecurityGroupIngress", "Properties": came},
        "NodesEgress": {"Type": "AWS::EC2::SecurityGroupEgress", "Properties": goes},
    }


def _group(told: str, cidr: str, port: int) -> dict[str, Any]:
    ingress = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "CidrIp": cidr, "Description": "From inside"}
    properties = {"GroupDescription": told, "VpcId": {"Ref": "Vpc"}, "SecurityGroupIngress": [ingress]}
    return {"Type": "AWS::EC2::SecurityGroup", "Properties": properties}


def _gateway(service: str) -> dict[str, Any]:
    return _endpoint(service, {"VpcEndpointType": "Gateway", "RouteTableIds": [{"Ref": "Routes"}]})


def _interface(service: str) -> dict[str, Any]:
    where = {"SubnetIds": [{"Ref": "Subnet1"}], "SecurityGroupIds": [{"Fn::GetAtt": ["EndpointsGroup", "GroupId"]}]}
    return _endpoint(service, {"VpcEndpointType": "Interface", "PrivateDnsEnabled": True} | where)


def _endpoint(service: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    common = {"VpcId": {"Ref": "Vpc"}, "ServiceName": sub("com.amazonaws.${AWS::Region}." + service)}
    return {"Type": "AWS::EC2::VPCEndpoint", "Properties": common | dict(properties)}


def _logical(service: str) -> str:
    return "To" + "".join(word.capitalize() for word in service.split("."))
