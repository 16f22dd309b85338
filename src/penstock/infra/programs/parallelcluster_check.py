"""Run by the Python of ``scripts/infra-tools``: aws-parallelcluster reads a configuration, then rehearses against moto.

Prints a JSON list of ``{"path", "rule", "told"}``. Nothing leaves the machine: moto answers for AWS in this process.
"""

import copy
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

_FAKE = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_SESSION_TOKEN": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "HTTPS_PROXY": "http://127.0.0.1:9",  # what moto does not answer ends here
    "HTTP_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "",
}
_UNSEEN = (  # what moto does not know: a price list of key pairs, launch templates, mount targets, quotas
    "type:KeyPairValidator",
    "type:HeadNodeLaunchTemplateValidator",
    "type:ComputeResourceLaunchTemplateValidator",
)


def main(file: str) -> int:
    """Check *file*."""
    import moto
    import yaml

    given = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    region = str(given.get("Region") or "us-east-1") if isinstance(given, dict) else "us-east-1"
    with tempfile.TemporaryDirectory() as home:
        os.environ |= _FAKE | {"AWS_DEFAULT_REGION": region, "HOME": home}
        os.environ.pop("AWS_ENDPOINT_URL", None)
        with moto.mock_aws():  # before ParallelCluster makes its clients, which it keeps
            found = schema(given) or rehearsal(given, region)
    sys.stdout.write(json.dumps(found))
    return 0


def schema(given: Any) -> list[dict[str, str]]:
    """What the package's own marshmallow schema says."""
    from marshmallow import ValidationError
    from pcluster.schemas.cluster_schema import ClusterSchema

    try:
        ClusterSchema(cluster_name="penstock").load(copy.deepcopy(given))
    except ValidationError as error:
        return [{"path": path, "rule": "schema", "told": told} for path, told in flat(error.messages)]
    except Exception as error:
        return [{"path": "", "rule": "schema", "told": f"{type(error).__name__}: {error}"}]
    return []


def flat(messages: Any, path: str = "") -> list[tuple[str, str]]:
    """The leaves of marshmallow's tree of messages."""
    if isinstance(messages, dict):
        return [one for key, inner in messages.items() for one in flat(inner, f"{path}.{key}".strip("."))]
    return [(path, str(one)) for one in (messages if isinstance(messages, list) else [messages])]


def rehearsal(given: Any, region: str) -> list[dict[str, str]]:
    """``create-cluster --dryrun`` against moto, which is given what the file names."""
    import yaml

    held = prepared(copy.deepcopy(given), region)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(held, file)
        file.flush()
        return rehearsed(file.name, region)


def rehearsed(file: str, region: str) -> list[dict[str, str]]:
    """What the dry run says; its own success is an error too, by the text of AWS."""
    import pcluster.lib as pc

    try:
        pc.create_cluster(
            cluster_name="penstock",
            cluster_configuration=file,
            dryrun=True,
            region=region,
            suppress_validators=list(_UNSEEN),
        )
    except Exception as error:
        return told_by(error)
    return []


def told_by(error: Exception) -> list[dict[str, str]]:
    """The findings in an answer of ParallelCluster's API."""
    content = getattr(error, "content", None)
    text = str(getattr(content, "message", "") or error)
    if "DryRun flag is set" in text:
        return []
    listed = getattr(content, "configuration_validation_errors", None) or []
    found = [
        {"path": str(one.id or ""), "rule": str(one.type), "told": str(one.message)}
        for one in listed
        if str(getattr(one.level, "value", one.level)).endswith("ERROR")
    ]
    return found or [{"path": "", "rule": "dry-run", "told": f"{type(error).__name__}: {text}"}]


def prepared(given: dict[str, Any], region: str) -> dict[str, Any]:
    """*given* with the names of things that moto has now, and those things."""
    import boto3

    ec2 = boto3.client("ec2", region)
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": False})
    group = ec2.create_security_group(GroupName="penstock", Description="nodes", VpcId=vpc)["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[itself(group)])
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[itself(group)])
    given.setdefault("Image", {})["CustomAmi"] = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    for networking in networkings(given):
        networking.update({"SubnetId": subnet} if "SubnetId" in networking else {"SubnetIds": [subnet]})
        networking.update({"AdditionalSecurityGroups": [group]} if "AdditionalSecurityGroups" in networking else {})
    for name in sorted(buckets(given)):
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        boto3.client("s3", region).create_bucket(Bucket=name, **place)
    for shared in given.get("SharedStorage") or []:
        settings = shared.get("FsxLustreSettings") or {}
        if "FileSystemId" in settings:
            lustre(str(settings["FileSystemId"]), region, subnet, group)
    return given


def itself(group: str) -> dict[str, Any]:
    """Everything between members of the group."""
    return {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}


def networkings(given: dict[str, Any]) -> list[dict[str, Any]]:
    """The head's and the queues' networking."""
    queues = (given.get("Scheduling") or {}).get("SlurmQueues") or []
    return [part["Networking"] for part in [given.get("HeadNode") or {}, *queues] if part.get("Networking")]


def buckets(given: dict[str, Any]) -> set[str]:
    """Every bucket that the head or a queue may use."""
    queues = (given.get("Scheduling") or {}).get("SlurmQueues") or []
    parts = [given.get("HeadNode") or {}, *queues]
    return {one["BucketName"] for part in parts for one in (part.get("Iam") or {}).get("S3Access") or []}


def lustre(name: str, region: str, subnet: str, group: str) -> None:
    """A file system in moto by the id *name*; moto's own ids are too short for ParallelCluster."""
    import boto3
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.fsx.models import fsx_backends

    made = boto3.client("fsx", region).create_file_system(
        FileSystemType="LUSTRE",
        StorageCapacity=1200,
        SubnetIds=[subnet],
        SecurityGroupIds=[group],
        LustreConfiguration={"DeploymentType": "PERSISTENT_2", "PerUnitStorageThroughput": 125},
    )
    held = fsx_backends[DEFAULT_ACCOUNT_ID][region].file_systems
    system = held[name] = held.pop(made["FileSystem"]["FileSystemId"])
    system.file_system_id = name
    told = system.to_dict
    card = boto3.client("ec2", region).create_network_interface(SubnetId=subnet, Groups=[group])["NetworkInterface"]
    more = {"VpcId": card["VpcId"], "NetworkInterfaceIds": [card["NetworkInterfaceId"]]}
    system.to_dict = lambda: told() | more  # moto does not tell them


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
