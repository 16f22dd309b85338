"""ParallelCluster 3: queues for CPU, MPI over EFA and GPU, the bucket and Lustre on every node.

Source: AWS ParallelCluster guide, "Cluster configuration file" (version 3), "AWS ParallelCluster in a single subnet
with no internet access" (managed DNS off), "Slurm accounting with AWS ParallelCluster". S3 is mounted by the repository
associations of Lustre; ``S3Access`` lets programs use it by its own protocol.
"""

from __future__ import annotations

from typing import Any

from penstock.infra.deployment import Cluster, Deployment, Files, Queue

__all__ = ["render"]

MOUNT = "/fsx"


def render(deployment: Deployment) -> Files:
    """The configuration for ``pcluster create-cluster``."""
    cluster = deployment.cluster
    return {
        "parallelcluster/cluster.yaml": {
            "Region": deployment.region,
            "Image": {"Os": cluster.os},
            "Imds": {"ImdsSupport": "v2.0"},
            "HeadNode": _head(deployment),
            "Scheduling": {
                "Scheduler": "slurm",
                "SlurmSettings": _slurm(cluster),
                "SlurmQueues": [_queue(deployment, queue) for queue in cluster.queue],
            },
            "SharedStorage": [
                {
                    "Name": "lustre",
                    "StorageType": "FsxLustre",
                    "MountDir": MOUNT,
                    "FsxLustreSettings": {"FileSystemId": deployment.made.file_system},
                }
            ],
            "Monitoring": {
                "Logs": {"CloudWatch": {"RetentionInDays": cluster.log_days, "DeletionPolicy": "Retain"}},
            },
            "Tags": [{"Key": "penstock", "Value": deployment.name}],
        }
    }


def _head(deployment: Deployment) -> dict[str, Any]:
    cluster = deployment.cluster
    networking = {
        "SubnetId": deployment.made.subnet,
        "AdditionalSecurityGroups": [deployment.made.security_group],
    }
    return {
        "InstanceType": cluster.head_instance,
        "Networking": networking,
        "Ssh": {"KeyName": cluster.key_name, "AllowedIps": cluster.ssh_cidr},
        "LocalStorage": _disk(cluster),
        "Imds": {"Secured": True},
        "Iam": {"S3Access": _buckets(deployment)},
    }


def _slurm(cluster: Cluster) -> dict[str, Any]:
    settings: dict[str, Any] = {"Dns": {"DisableManagedDns": True, "UseEc2Hostnames": True}}
    if cluster.accounting_uri:
        settings["Database"] = {
            "Uri": cluster.accounting_uri,
            "UserName": cluster.accounting_user,
            "PasswordSecretArn": cluster.accounting_secret,
        }
    return settings


def _queue(deployment: Deployment, queue: Queue) -> dict[str, Any]:
    nodes = {
        "Name": f"{queue.name}-nodes",
        "InstanceType": queue.instance,
        "MinCount": queue.min_nodes,
        "MaxCount": queue.max_nodes,
    }
    networking: dict[str, Any] = {
        "SubnetIds": [deployment.made.subnet],
        "AdditionalSecurityGroups": [deployment.made.security_group],
    }
    if queue.efa:
        nodes["Efa"] = {"Enabled": True}
        nodes["DisableSimultaneousMultithreading"] = True  # one rank a core
        networking["PlacementGroup"] = {"Enabled": True}
    return {
        "Name": queue.name,
        "CapacityType": "ONDEMAND",
        "ComputeSettings": {"LocalStorage": _disk(deployment.cluster)},
        "ComputeResources": [nodes],
        "Networking": networking,
        "Iam": {"S3Access": _buckets(deployment)},
    }


def _disk(cluster: Cluster) -> dict[str, Any]:
    return {"RootVolume": {"Size": cluster.root_gib, "Encrypted": True}}


def _buckets(deployment: Deployment) -> list[dict[str, Any]]:
    storage = deployment.storage
    return [
        {"BucketName": storage.bucket, "KeyName": f"{storage.raw}/*", "EnableWriteAccess": False},
        {"BucketName": storage.bucket, "KeyName": f"{storage.datasets}/*", "EnableWriteAccess": True},
    ]
