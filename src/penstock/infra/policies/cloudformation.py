"""Rules for CloudFormation templates.

Sources: S3 user guide, "Security best practices"; IAM user guide, "Security best practices in IAM"; VPC user guide,
"Security group rules"; CloudFormation user guide, "DeletionPolicy attribute"; Service authorization reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from penstock.infra.policies.rule import Breach, Documents, Found, Rule, at, listed, rule, walked

__all__ = ["RULES"]

_CLOSED = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
_HOLDS_DATA = ("AWS::S3::Bucket", "AWS::FSx::FileSystem", "AWS::EFS::FileSystem", "AWS::RDS::DBInstance")
_ANYWHERE = ("0.0.0.0/0", "::/0")
_NO_RESOURCE = ("ec2:Describe", "fsx:Describe", "cloudwatch:PutMetricData", "ssm:DescribeInstance", "pricing:")
"""Actions to which the service authorization reference gives no type of resource, by their beginnings."""


def _of(template: Any, kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, resource in (at(template, "Resources") or {}).items():
        if at(resource, "Type") == kind:
            yield name, resource


def _statements(template: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Statements of every policy in the template."""
    for path, value in walked(at(template, "Resources") or {}, "Resources"):
        if path.endswith(("PolicyDocument", "KeyPolicy")) and isinstance(value, Mapping):
            for index, statement in enumerate(listed(value.get("Statement"))):
                yield f"{path}.Statement.{index}", statement


def _allowing(template: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((path, one) for path, one in _statements(template) if at(one, "Effect") == "Allow")


@rule(
    "S3-PUBLIC",
    "A bucket blocks public access in all four ways",
    "Set the four keys of PublicAccessBlockConfiguration to true.",
)
def public(template: Any) -> Iterator[Breach]:
    for name, bucket in _of(template, "AWS::S3::Bucket"):
        block = at(bucket, "Properties", "PublicAccessBlockConfiguration") or {}
        if open_ := [key for key in _CLOSED if block.get(key) is not True]:
            yield f"Resources.{name}.Properties.PublicAccessBlockConfiguration", f"{', '.join(open_)} not true"


@rule(
    "S3-ENCRYPT",
    "A bucket encrypts what it holds",
    "Give BucketEncryption a ServerSideEncryptionByDefault with AES256 or aws:kms.",
)
def encrypted(template: Any) -> Iterator[Breach]:
    for name, bucket in _of(template, "AWS::S3::Bucket"):
        rules = listed(at(bucket, "Properties", "BucketEncryption", "ServerSideEncryptionConfiguration"))
        kinds = [at(one, "ServerSideEncryptionByDefault", "SSEAlgorithm") for one in rules]
        if not kinds or not {*kinds} <= {"AES256", "aws:kms", "aws:kms:dsse"}:
            yield f"Resources.{name}.Properties.BucketEncryption", f"{kinds or 'none'}"


@rule("S3-VERSIONS", "A bucket keeps versions", "Set VersioningConfiguration: {Status: Enabled}.")
def versioned(template: Any) -> Iterator[Breach]:
    for name, bucket in _of(template, "AWS::S3::Bucket"):
        status = at(bucket, "Properties", "VersioningConfiguration", "Status")
        if status != "Enabled":
            yield f"Resources.{name}.Properties.VersioningConfiguration", f"{status}"


@rule(
    "S3-TLS",
    "A bucket refuses requests without TLS",
    'Add a BucketPolicy that denies s3:* where aws:SecureTransport is "false".',
)
def by_tls(template: Any) -> Iterator[Breach]:
    closed = [
        at(policy, "Properties", "Bucket") for _, policy in _of(template, "AWS::S3::BucketPolicy") if _tls(policy)
    ]
    for name, bucket in _of(template, "AWS::S3::Bucket"):
        if {"Ref": name} not in closed and at(bucket, "Properties", "BucketName") not in closed:
            yield f"Resources.{name}", "no policy denies plain HTTP"


def _tls(policy: Any) -> bool:
    statements = listed(at(policy, "Properties", "PolicyDocument", "Statement"))
    return any(
        at(one, "Effect") == "Deny"
        and "s3:*" in listed(at(one, "Action"))
        and str(at(one, "Condition", "Bool", "aws:SecureTransport")).lower() == "false"
        for one in statements
    )


@rule(
    "DATA-RETAIN",
    "What holds data outlives its stack",
    "Set DeletionPolicy and UpdateReplacePolicy of the resource to Retain.",
)
def kept(template: Any) -> Iterator[Breach]:
    for kind in _HOLDS_DATA:
        for name, resource in _of(template, kind):
            for key in ("DeletionPolicy", "UpdateReplacePolicy"):
                if resource.get(key) != "Retain":
                    yield f"Resources.{name}.{key}", f"{resource.get(key)}"


@rule(
    "FSX-PERSISTENT",
    "Lustre is of a persistent kind, which repairs itself and is encrypted by a key of the account",
    "Set LustreConfiguration.DeploymentType to PERSISTENT_2.",
)
def persistent(template: Any) -> Iterator[Breach]:
    for name, resource in _of(template, "AWS::FSx::FileSystem"):
        kind = at(resource, "Properties", "LustreConfiguration", "DeploymentType")
        if kind not in ("PERSISTENT_1", "PERSISTENT_2"):
            yield f"Resources.{name}.Properties.LustreConfiguration.DeploymentType", f"{kind}"


@rule(
    "FSX-REPOSITORY",
    "A Lustre file system is tied to the bucket",
    "Add an AWS::FSx::DataRepositoryAssociation whose FileSystemId refers to it.",
)
def tied(template: Any) -> Iterator[Breach]:
    ties = [at(one, "Properties", "FileSystemId") for _, one in _of(template, "AWS::FSx::DataRepositoryAssociation")]
    for name, _ in _of(template, "AWS::FSx::FileSystem"):
        if {"Ref": name} not in ties:
            yield f"Resources.{name}", "no association"


@rule(
    "IAM-ACTION",
    "A role is allowed actions by name, none by a wildcard",
    "List the actions; nothing that has a * in it.",
)
def named_actions(template: Any) -> Iterator[Breach]:
    for path, statement in _allowing(template):
        if wild := [one for one in listed(at(statement, "Action")) if "*" in str(one)]:
            yield f"{path}.Action", ", ".join(wild)
        if at(statement, "NotAction") is not None:
            yield f"{path}.NotAction", "everything but a few"


@rule(
    "IAM-RESOURCE",
    "A role is allowed named resources, unless its actions know none",
    "Name the resources (ARNs); * only for actions as ec2:Describe..., in a statement of their own.",
)
def named_resources(template: Any) -> Iterator[Breach]:
    for path, statement in _allowing(template):
        if "*" in listed(at(statement, "Resource")):
            actions = [str(one) for one in listed(at(statement, "Action"))]
            if scoped := [one for one in actions if not one.startswith(_NO_RESOURCE)]:
                yield f"{path}.Resource", f"* for {', '.join(scoped)}"


@rule(
    "IAM-PRINCIPAL",
    "Nobody is trusted by a wildcard",
    "Name the service or role in Principal.",
)
def named_principals(template: Any) -> Iterator[Breach]:
    for path, statement in _allowing(template):
        principal = at(statement, "Principal")
        values = principal.values() if isinstance(principal, Mapping) else [principal]
        if any("*" in listed(value) for value in values):
            yield f"{path}.Principal", "*"


@rule(
    "IAM-MANAGED",
    "A role carries no policy that allows everything",
    "Take AdministratorAccess, PowerUserAccess and ...FullAccess away; write the statements that are needed.",
)
def modest(template: Any) -> Iterator[Breach]:
    for path, value in walked(at(template, "Resources") or {}, "Resources"):
        if (
            "ManagedPolicyArns." in path
            and isinstance(value, str)
            and value.endswith(("AdministratorAccess", "PowerUserAccess", "FullAccess"))
        ):
            yield path, value


@rule(
    "NET-INGRESS",
    "No security group lets the whole internet in",
    "Give CidrIp a range of your own, or a SourceSecurityGroupId.",
)
def closed(template: Any) -> Iterator[Breach]:
    for name, group in _of(template, "AWS::EC2::SecurityGroup"):
        for index, one in enumerate(listed(at(group, "Properties", "SecurityGroupIngress"))):
            if {at(one, "CidrIp"), at(one, "CidrIpv6")} & {*_ANYWHERE}:
                yield f"Resources.{name}.Properties.SecurityGroupIngress.{index}", "the whole internet"
    for name, one in _of(template, "AWS::EC2::SecurityGroupIngress"):
        if {at(one, "Properties", "CidrIp"), at(one, "Properties", "CidrIpv6")} & {*_ANYWHERE}:
            yield f"Resources.{name}.Properties", "the whole internet"


@rule(
    "NET-PRIVATE",
    "Subnets are private: no public addresses, no way to the internet",
    "Set MapPublicIpOnLaunch to false, and take internet gateways away.",
)
def private(template: Any) -> Iterator[Breach]:
    for name, subnet in _of(template, "AWS::EC2::Subnet"):
        if at(subnet, "Properties", "MapPublicIpOnLaunch") is not False:
            yield f"Resources.{name}.Properties.MapPublicIpOnLaunch", "not false"
    for name, _ in _of(template, "AWS::EC2::InternetGateway"):
        yield f"Resources.{name}", "an internet gateway"


@rule(
    "NET-S3",
    "A network without a way to the internet reaches S3 by an endpoint",
    "Add an AWS::EC2::VPCEndpoint of type Gateway for S3.",
)
def reaches_s3(template: Any) -> Iterator[Breach]:
    names = [str(at(one, "Properties", "ServiceName")) for _, one in _of(template, "AWS::EC2::VPCEndpoint")]
    for name, _ in _of(template, "AWS::EC2::VPC"):
        if not any(".s3" in one for one in names):
            yield f"Resources.{name}", "no endpoint for S3"


@rule(
    "BUDGET-ALARM",
    "A budget tells somebody",
    "Give it NotificationsWithSubscribers with a threshold and an address.",
)
def tells(template: Any) -> Iterator[Breach]:
    for name, budget in _of(template, "AWS::Budgets::Budget"):
        alarms = listed(at(budget, "Properties", "NotificationsWithSubscribers"))
        if not any(listed(at(one, "Subscribers")) for one in alarms):
            yield f"Resources.{name}.Properties.NotificationsWithSubscribers", "nobody"


def _budgets(documents: Documents) -> Found:
    if documents and not any(True for one in documents.values() for _ in _of(one, "AWS::Budgets::Budget")):
        yield next(iter(documents)), "Resources", "no AWS::Budgets::Budget in the folder"


BUDGET = Rule("BUDGET-THERE", "There is a budget", "Render budget.yaml, or add an AWS::Budgets::Budget.", _budgets)

RULES: tuple[Rule, ...] = (
    public,
    encrypted,
    versioned,
    by_tls,
    kept,
    persistent,
    tied,
    named_actions,
    named_resources,
    named_principals,
    modest,
    closed,
    private,
    reaches_s3,
    tells,
    BUDGET,
)
