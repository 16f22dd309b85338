"""Ray on EC2, for ``ray up``: private addresses, SSH through Session Manager, roles of the stack ``access``.

Source: Ray documentation, "Cluster YAML configuration options" and "Launching Ray clusters on AWS"; Systems Manager
user guide, "Allow and control permissions for SSH connections through Session Manager". The image of the machines has
Penstock and Ray already, so that nothing is installed when a node starts.
"""

from __future__ import annotations

from typing import Any

from penstock.infra.deployment import Deployment, Files, Node

__all__ = ["render"]

_PROXY = "aws ssm start-session --target %h --document-name AWS-StartSSHSession --parameters portNumber=%p"
_HEAD = (
    "ulimit -n 65536; ray start --head --port=6379 --object-manager-port=8076 "
    "--autoscaling-config=~/ray_bootstrap_config.yaml --dashboard-host=127.0.0.1"
)
_WORKER = "ulimit -n 65536; ray start --address=$RAY_HEAD_IP:6379 --object-manager-port=8076"


def render(deployment: Deployment) -> Files:
    """The configuration for ``ray up``."""
    ray = deployment.ray
    head = {"node_config": _machine(deployment, ray.head_instance, "ray-head"), "resources": {"CPU": 0}}
    workers = {node.name: _workers(deployment, node) for node in ray.node}
    return {
        "ray/cluster.yaml": {
            "cluster_name": deployment.name,
            "max_workers": sum(node.max_workers for node in ray.node),
            "idle_timeout_minutes": ray.idle_minutes,
            "provider": {
                "type": "aws",
                "region": deployment.region,
                "use_internal_ips": True,
                "cache_stopped_nodes": False,
            },
            "auth": {
                "ssh_user": ray.ssh_user,
                "ssh_private_key": f"~/.ssh/{ray.key_name}.pem",
                "ssh_proxy_command": _PROXY,
                "ssh_proxy_use_node_id": True,
            },
            "available_node_types": {"head": head} | workers,
            "head_node_type": "head",
            "initialization_commands": [],
            "setup_commands": [],
            "head_setup_commands": [],
            "worker_setup_commands": [],
            "head_start_ray_commands": ["ray stop", _HEAD],
            "worker_start_ray_commands": ["ray stop", _WORKER],
        }
    }


def _workers(deployment: Deployment, node: Node) -> dict[str, Any]:
    return {
        "min_workers": node.min_workers,
        "max_workers": node.max_workers,
        "resources": {},  # Ray asks EC2 what the type has
        "node_config": _machine(deployment, node.instance, "ray-node"),
    }


def _machine(deployment: Deployment, instance: str, role: str) -> dict[str, Any]:
    """Keys of EC2's RunInstances, and Ray's own ``SubnetIds``."""
    made, ray = deployment.made, deployment.ray
    disk = {"VolumeSize": ray.disk_gib, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    return {
        "InstanceType": instance,
        "ImageId": made.ray_image,
        "KeyName": ray.key_name,
        "SubnetIds": [made.subnet],
        "SecurityGroupIds": [made.security_group],
        "IamInstanceProfile": {"Name": f"{deployment.name}-{role}"},
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": disk}],
    }
