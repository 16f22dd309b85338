"""Rules for ParallelCluster's configuration and for Ray's on AWS.

Sources: ParallelCluster guide, "Cluster configuration file" (``AllowedIps`` is the whole internet where it is left
out); EC2 user guide, "Use IMDSv2"; Ray documentation, "Cluster YAML configuration options"; EC2 API reference,
"RunInstances".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from penstock.infra.policies.rule import Breach, Rule, at, listed, rule, walked

__all__ = ["PARALLELCLUSTER", "RAY"]

_NODE_KEYS = frozenset(
    {
        "BlockDeviceMappings",
        "CapacityReservationSpecification",
        "CpuOptions",
        "CreditSpecification",
        "DisableApiTermination",
        "EbsOptimized",
        "EnclaveOptions",
        "HibernationOptions",
        "IamInstanceProfile",
        "ImageId",
        "InstanceInitiatedShutdownBehavior",
        "InstanceMarketOptions",
        "InstanceType",
        "KeyName",
        "LaunchTemplate",
        "LicenseSpecifications",
        "MaintenanceOptions",
        "MetadataOptions",
        "Monitoring",
        "NetworkInterfaces",
        "Placement",
        "PrivateDnsNameOptions",
        "SecurityGroupIds",
        "SubnetId",
        "SubnetIds",
        "TagSpecifications",
        "UserData",
    }
)
"""Keys of RunInstances that a node may set, and Ray's own SubnetIds; Ray's schema does not look in here."""


def _parts(cluster: Any) -> Iterator[tuple[str, Any]]:
    """The head, and each queue."""
    yield "HeadNode", at(cluster, "HeadNode") or {}
    for index, queue in enumerate(listed(at(cluster, "Scheduling", "SlurmQueues"))):
        yield f"Scheduling.SlurmQueues.{index}", queue


def _computes(cluster: Any) -> Iterator[tuple[str, Any, Any]]:
    for path, queue in _parts(cluster):
        for index, nodes in enumerate(listed(at(queue, "ComputeResources"))):
            yield f"{path}.ComputeResources.{index}", queue, nodes


# --- ParallelCluster -------------------------------------------------------------------------------------


@rule("PC-IMDS", "Machines give their credentials by IMDSv2 alone", "Set Imds: {ImdsSupport: v2.0} at the top.")
def imds(cluster: Any) -> Iterator[Breach]:
    if at(cluster, "Imds", "ImdsSupport") != "v2.0":
        yield "Imds.ImdsSupport", f"{at(cluster, 'Imds', 'ImdsSupport')}"


@rule("PC-DISK", "Root volumes are encrypted", "Set RootVolume: {Encrypted: true} in LocalStorage.")
def disks(cluster: Any) -> Iterator[Breach]:
    for path, part in _parts(cluster):
        storage = at(part, "LocalStorage") if path == "HeadNode" else at(part, "ComputeSettings", "LocalStorage")
        if at(storage, "RootVolume", "Encrypted") is not True:
            yield f"{path}.LocalStorage.RootVolume.Encrypted", f"{at(storage, 'RootVolume', 'Encrypted')}"


@rule(
    "PC-SSH", "SSH is open to addresses of our own", "Set HeadNode.Ssh.AllowedIps to a range; left out it is everybody."
)
def ssh(cluster: Any) -> Iterator[Breach]:
    allowed = at(cluster, "HeadNode", "Ssh", "AllowedIps")
    if at(cluster, "HeadNode", "Ssh") is not None and allowed in (None, "0.0.0.0/0", "::/0"):
        yield "HeadNode.Ssh.AllowedIps", f"{allowed}"


@rule("PC-PUBLIC", "No node has a public address", "Take AssignPublicIp and ElasticIp away; use a private subnet.")
def no_address(cluster: Any) -> Iterator[Breach]:
    for path, part in _parts(cluster):
        for key in ("AssignPublicIp", "ElasticIp"):
            if at(part, "Networking", key):
                yield f"{path}.Networking.{key}", f"{at(part, 'Networking', key)}"


@rule(
    "PC-S3",
    "Nodes write below a prefix, and name their buckets",
    "Give S3Access a BucketName without * and, with EnableWriteAccess, a KeyName that is not *.",
)
def prefixes(cluster: Any) -> Iterator[Breach]:
    for path, part in _parts(cluster):
        for index, one in enumerate(listed(at(part, "Iam", "S3Access"))):
            whole = at(one, "EnableWriteAccess") and at(one, "KeyName") in (None, "*", "/*")
            if whole or "*" in str(at(one, "BucketName")):
                yield f"{path}.Iam.S3Access.{index}", f"{at(one, 'BucketName')}, keys {at(one, 'KeyName')}"


@rule("PC-COUNTS", "A queue says its most nodes, no fewer than its least", "Set MaxCount, at least MinCount and 1.")
def counts(cluster: Any) -> Iterator[Breach]:
    for path, _, nodes in _computes(cluster):
        least, most = at(nodes, "MinCount") or 0, at(nodes, "MaxCount")
        if not isinstance(most, int) or not isinstance(least, int) or most < max(least, 1):
            yield f"{path}.MaxCount", f"MinCount {least}, MaxCount {most}"


@rule("PC-EFA", "Nodes with EFA stand close together", "Set Networking.PlacementGroup: {Enabled: true} in the queue.")
def close(cluster: Any) -> Iterator[Breach]:
    for path, queue, nodes in _computes(cluster):
        placed = at(queue, "Networking", "PlacementGroup", "Enabled") or at(
            nodes, "Networking", "PlacementGroup", "Enabled"
        )
        if at(nodes, "Efa", "Enabled") and not placed:
            yield f"{path}.Efa", "no placement group"


@rule(
    "PC-POLICY", "Nodes carry no policy that allows everything", "Take the ...FullAccess or Administrator policy away."
)
def modest(cluster: Any) -> Iterator[Breach]:
    for path, value in walked(cluster):
        if path.endswith(".Policy") and str(value).endswith(("AdministratorAccess", "PowerUserAccess", "FullAccess")):
            yield path, str(value)


@rule(
    "PC-MOUNT", "Shared storage is mounted, each below a folder of its own", "Give each a MountDir that no other has."
)
def mounts(cluster: Any) -> Iterator[Breach]:
    seen: set[str] = set()
    for index, shared in enumerate(listed(at(cluster, "SharedStorage"))):
        folder = at(shared, "MountDir")
        if not folder or folder in seen:
            yield f"SharedStorage.{index}.MountDir", f"{folder}"
        seen.add(str(folder))


# --- Ray on AWS ------------------------------------------------------------------------------------------


def _kinds(cluster: Any) -> Iterator[tuple[str, Any]]:
    for name, kind in (at(cluster, "available_node_types") or {}).items():
        yield f"available_node_types.{name}", kind


@rule("RAY-PRIVATE", "Nodes speak by private addresses", "Set provider.use_internal_ips to true.")
def internal(cluster: Any) -> Iterator[Breach]:
    if at(cluster, "provider", "use_internal_ips") is not True:
        yield "provider.use_internal_ips", f"{at(cluster, 'provider', 'use_internal_ips')}"


@rule(
    "RAY-NODE",
    "A node_config has keys of EC2's RunInstances",
    "Write the key as the EC2 API reference has it; Ray itself would notice at the first start.",
)
def node_keys(cluster: Any) -> Iterator[Breach]:
    for path, kind in _kinds(cluster):
        for key in at(kind, "node_config") or {}:
            if key not in _NODE_KEYS:
                yield f"{path}.node_config.{key}", "not known"


@rule("RAY-HEAD", "head_node_type is one of available_node_types", "Name one of them.")
def head(cluster: Any) -> Iterator[Breach]:
    kinds = at(cluster, "available_node_types") or {}
    if at(cluster, "head_node_type") not in kinds:
        yield "head_node_type", f"{at(cluster, 'head_node_type')}, there are {', '.join(kinds)}"


@rule(
    "RAY-COUNTS", "Each kind of worker says how many, no more than the cluster has", "Set min_workers <= max_workers."
)
def workers(cluster: Any) -> Iterator[Breach]:
    whole = at(cluster, "max_workers")
    if not isinstance(whole, int):
        yield "max_workers", f"{whole}"
        return
    for path, kind in _kinds(cluster):
        least, most = at(kind, "min_workers") or 0, at(kind, "max_workers")
        most = whole if most is None else most
        if isinstance(least, int) and isinstance(most, int) and not least <= most <= whole:
            yield f"{path}.max_workers", f"min_workers {least}, max_workers {most}, of the cluster {whole}"


@rule("RAY-IMDS", "Machines give their credentials by IMDSv2 alone", "Set MetadataOptions: {HttpTokens: required}.")
def tokens(cluster: Any) -> Iterator[Breach]:
    for path, kind in _kinds(cluster):
        if at(kind, "node_config", "MetadataOptions", "HttpTokens") != "required":
            yield f"{path}.node_config.MetadataOptions", "IMDSv1 would be answered"


@rule("RAY-DISK", "Disks are encrypted", "Set Ebs: {Encrypted: true} in BlockDeviceMappings.")
def ebs(cluster: Any) -> Iterator[Breach]:
    for path, kind in _kinds(cluster):
        disks_ = listed(at(kind, "node_config", "BlockDeviceMappings"))
        if not disks_ or any(at(one, "Ebs", "Encrypted") is not True for one in disks_ if at(one, "Ebs")):
            yield f"{path}.node_config.BlockDeviceMappings", "not encrypted"


@rule("RAY-DASHBOARD", "Ray's dashboard, which runs whatever is sent to it, listens on loopback", "Use 127.0.0.1.")
def dashboard(cluster: Any) -> Iterator[Breach]:
    for index, command in enumerate(listed(at(cluster, "head_start_ray_commands"))):
        if "--dashboard-host=0.0.0.0" in str(command) or "--dashboard-host 0.0.0.0" in str(command):
            yield f"head_start_ray_commands.{index}", "every address"


@rule("RAY-ROLE", "Machines have a role of their own", "Give node_config an IamInstanceProfile of the stack access.")
def role(cluster: Any) -> Iterator[Breach]:
    for path, kind in _kinds(cluster):
        if not at(kind, "node_config", "IamInstanceProfile"):
            yield f"{path}.node_config.IamInstanceProfile", "none: Ray would make one with full access to EC2 and S3"


PARALLELCLUSTER: tuple[Rule, ...] = (imds, disks, ssh, no_address, prefixes, counts, close, modest, mounts)
RAY: tuple[Rule, ...] = (internal, node_keys, head, workers, tokens, ebs, dashboard, role)
