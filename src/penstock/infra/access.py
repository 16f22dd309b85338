"""Roles with no more than their work needs: Ray's head may start and end its own workers, both may use the bucket.

ParallelCluster makes its own roles from the ``S3Access`` in its configuration.

Sources: IAM user guide, "Grant least privilege"; Service authorization reference, "Actions, resources, and condition
keys for Amazon EC2" (which actions know no resource); Ray documentation, "Launching Ray clusters on AWS".
"""

from __future__ import annotations

from typing import Any

from penstock.infra.deployment import Deployment, Files
from penstock.infra.stack import allowed, stack, sub

__all__ = ["render"]

_LOOKS = (
    "ec2:DescribeImages",
    "ec2:DescribeInstances",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeKeyPairs",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
)
_TAG = "ray-cluster-name"
_EC2 = "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:"


def render(deployment: Deployment) -> Files:
    """The stack ``NAME-access``; its names are those in Ray's configuration."""
    name = deployment.name
    data = _data(deployment)
    resources = {
        "RayHead": _role(f"{name}-ray-head", [*data, *_scaling(deployment)]),
        "RayNode": _role(f"{name}-ray-node", data),
        "RayHeadProfile": _profile(f"{name}-ray-head", "RayHead"),
        "RayNodeProfile": _profile(f"{name}-ray-node", "RayNode"),
    }
    outputs = {each: {"Description": "Role of the machines", "Value": {"Ref": each}} for each in ("RayHead", "RayNode")}
    return {"cloudformation/access.yaml": stack(f"{name}: roles of Ray's machines", resources, outputs)}


def _data(deployment: Deployment) -> list[dict[str, Any]]:
    """Reading of both prefixes, writing of datasets."""
    storage = deployment.storage
    bucket = "arn:${AWS::Partition}:s3:::" + storage.bucket
    prefixes = [f"{prefix}/*" for prefix in (storage.raw, storage.datasets)]
    writes = ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")
    return [
        allowed("List", ["s3:ListBucket"], sub(bucket), {"StringLike": {"s3:prefix": prefixes}}),
        allowed("Read", ["s3:GetObject"], [sub(f"{bucket}/{prefix}") for prefix in prefixes]),
        allowed("Write", writes, sub(f"{bucket}/{storage.datasets}/*")),
    ]


def _scaling(deployment: Deployment) -> list[dict[str, Any]]:
    """What Ray's autoscaler does: look, start machines that carry its tag, end and tag only those."""
    name, made = deployment.name, deployment.made
    used = [f"subnet/{made.subnet}", f"security-group/{made.security_group}", f"key-pair/{deployment.ray.key_name}"]
    new = [sub(_EC2 + "network-interface/*"), sub(_EC2 + "volume/*")]
    image = sub("arn:${AWS::Partition}:ec2:${AWS::Region}::image/" + made.ray_image)
    machines, tagged = sub(_EC2 + "instance/*"), {"StringEquals": {f"aws:ResourceTag/{_TAG}": name}}
    started = {"StringEquals": {f"aws:RequestTag/{_TAG}": name}}
    with_launch = {"StringEquals": {"ec2:CreateAction": "RunInstances"}}
    return [
        allowed("Look", _LOOKS, "*"),  # these actions know no resource
        allowed("StartWith", ["ec2:RunInstances"], [*(sub(_EC2 + one) for one in used), *new, image]),
        allowed("Start", ["ec2:RunInstances"], machines, started),
        allowed("TagNew", ["ec2:CreateTags"], machines, with_launch),
        allowed("EndOwn", ["ec2:TerminateInstances", "ec2:CreateTags"], machines, tagged),
        allowed("Hand", ["iam:PassRole"], {"Fn::GetAtt": ["RayNode", "Arn"]}, _to_machines()),
    ]


def _to_machines() -> dict[str, Any]:
    return {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}


def _role(name: str, statements: list[dict[str, Any]]) -> dict[str, Any]:
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = {"Version": "2012-10-17", "Statement": statements}
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "RoleName": name,
            "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [trust]},
            "ManagedPolicyArns": [sub("arn:${AWS::Partition}:iam::aws:policy/AmazonSSMManagedInstanceCore")],
            "Policies": [{"PolicyName": "penstock", "PolicyDocument": document}],
        },
    }


def _profile(name: str, role: str) -> dict[str, Any]:
    return {
        "Type": "AWS::IAM::InstanceProfile",
        "Properties": {"InstanceProfileName": name, "Roles": [{"Ref": role}]},
    }
