"""FSx for Lustre, its folders tied to the bucket's prefixes.

Sources: CloudFormation, ``AWS::FSx::FileSystem`` and ``AWS::FSx::DataRepositoryAssociation``; FSx for Lustre user
guide, "Linking your file system to an S3 bucket" and "Data encryption at rest" (always on).
"""

from __future__ import annotations

from typing import Any

from penstock.infra.deployment import Deployment, Files, Filesystem
from penstock.infra.stack import exported, imported, retained, stack

__all__ = ["render"]

_EVERY_CHANGE = {"Events": ["NEW", "CHANGED", "DELETED"]}


def render(deployment: Deployment) -> Files:
    """The stack ``NAME-filesystem``; it needs ``NAME-network`` and ``NAME-storage``."""
    resources = {
        "Lustre": _lustre(deployment.name, deployment.filesystem),
        "Raw": _association(deployment, deployment.storage.raw, writes=False),
        "Datasets": _association(deployment, deployment.storage.datasets, writes=True),
    }
    outputs = {
        "FileSystem": exported(f"{deployment.name}-file-system", {"Ref": "Lustre"}, "made.file_system of deploy.toml"),
        "DnsName": exported(f"{deployment.name}-file-system-dns", {"Fn::GetAtt": ["Lustre", "DNSName"]}, "To mount it"),
        "MountName": exported(
            f"{deployment.name}-file-system-mount",
            {"Fn::GetAtt": ["Lustre", "LustreMountName"]},
            "The same",
        ),
    }
    title = f"{deployment.name}: FSx for Lustre over the bucket"
    return {"cloudformation/filesystem.yaml": stack(title, resources, outputs)}


def _lustre(name: str, filesystem: Filesystem) -> dict[str, Any]:
    lustre = {
        "DeploymentType": "PERSISTENT_2",
        "PerUnitStorageThroughput": filesystem.throughput_mb_per_second_per_tib,
        "DataCompressionType": "LZ4",
        "AutomaticBackupRetentionDays": 0,  # backups are not to be had with associations; S3 keeps the data
    }
    return retained(
        "AWS::FSx::FileSystem",
        {
            "FileSystemType": "LUSTRE",
            "FileSystemTypeVersion": filesystem.version,
            "StorageType": "SSD",
            "StorageCapacity": filesystem.capacity_gib,
            "SubnetIds": [imported(f"{name}-subnet-1")],
            "SecurityGroupIds": [imported(f"{name}-security-group")],
            "LustreConfiguration": lustre,
        },
    )


def _association(deployment: Deployment, prefix: str, *, writes: bool) -> dict[str, Any]:
    """Folder ``/PREFIX`` is ``s3://BUCKET/PREFIX``; what is written below it goes to S3 where *writes*."""
    policies = {"AutoImportPolicy": _EVERY_CHANGE} | ({"AutoExportPolicy": _EVERY_CHANGE} if writes else {})
    return {
        "Type": "AWS::FSx::DataRepositoryAssociation",
        "Properties": {
            "FileSystemId": {"Ref": "Lustre"},
            "FileSystemPath": f"/{prefix}",
            "DataRepositoryPath": {"Fn::Join": ["", ["s3://", imported(f"{deployment.name}-bucket"), f"/{prefix}/"]]},
            "BatchImportMetaDataOnCreate": True,
            "S3": policies,
        },
    }
