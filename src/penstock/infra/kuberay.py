"""Ray on Kubernetes: a cluster, a job that runs a pipeline, a service of its steps.

Sources: KubeRay, ``ray-operator/apis/ray/v1`` (RayCluster, RayJob, RayService); Ray documentation, "Getting started
with KubeRay"; Kubernetes, "Pod Security Standards" (restricted). Images carry no registry: a kustomization of yours
names it (``images: [{name: penstock/ray, newName: HOST/penstock/ray}]``). Pipeline files come from the ConfigMap
``pipelines``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import yaml

from penstock.infra.deployment import Deployment, Files, Kubernetes

__all__ = ["render"]

Env: TypeAlias = tuple[dict[str, Any], ...]

FOLDER = "/etc/penstock"
_USER = 1000
_TOKEN = {  # asked of who asks, when there is such a secret
    "name": "PENSTOCK_TOKEN",
    "valueFrom": {"secretKeyRef": {"name": "penstock", "key": "token", "optional": True}},
}
_PORTS = {"gcs": 6379, "dashboard": 8265, "client": 10001, "serve": 8000, "metrics": 8080}


def render(deployment: Deployment) -> Files:
    """Manifests for ``kubectl apply -k``."""
    name, asked = deployment.name, deployment.kubernetes
    job = f"{FOLDER}/{asked.pipeline}"
    return {
        "kuberay/raycluster.yaml": _object("RayCluster", name, asked, _cluster(asked)),
        "kuberay/rayjob.yaml": _object(
            "RayJob",
            f"{name}-job",
            asked,
            {
                "entrypoint": f"penstock run {job} --set runner.use=ray --set runner.address=auto",
                "submissionMode": "K8sJobMode",
                "shutdownAfterJobFinishes": True,
                "ttlSecondsAfterFinished": 600,
                "activeDeadlineSeconds": asked.deadline_seconds,
                "backoffLimit": 2,  # the ledger skips what is done
                "rayClusterSpec": _cluster(asked),
            },
        ),
        "kuberay/rayservice.yaml": _object(
            "RayService",
            f"{name}-service",
            asked,
            {"serveConfigV2": _served(asked), "rayClusterConfig": _cluster(asked, _TOKEN)},
        ),
        "kuberay/kustomization.yaml": {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": asked.namespace,
            "resources": ["raycluster.yaml"],
        },
    }


def _object(kind: str, name: str, asked: Kubernetes, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": asked.namespace, "labels": {"app.kubernetes.io/part-of": "penstock"}}
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _served(asked: Kubernetes) -> str:
    """Serve's own configuration is a text in the manifest ("Serve Config Files" of Ray's documentation)."""
    application = {
        "name": "penstock",
        "route_prefix": "/",
        "import_path": "penstock.runners.application:service",
        "args": {"address": f"{FOLDER}/{asked.pipeline}#{asked.service}"},
    }
    text: str = yaml.safe_dump({"applications": [application]}, sort_keys=False)
    return text


def _cluster(asked: Kubernetes, *env: dict[str, Any]) -> dict[str, Any]:
    groups = [_group("cpu", asked, (asked.min_workers, asked.max_workers), env)]
    groups += [_group("gpu", asked, (0, asked.gpu_workers), env, gpus=1)] if asked.gpu_workers else []
    spec = {
        "rayVersion": asked.ray_version,
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "upscalingMode": "Default",
            "idleTimeoutSeconds": asked.idle_seconds,
            "resources": _resources("500m", "512Mi"),
            "securityContext": _confined(),
        },
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},  # noqa: S104 (inside its pod)
            "template": _pod(asked, "ray-head", env),
        },
        "workerGroupSpecs": groups,
    }
    kept = {"redisAddress": asked.redis, "redisPassword": {"valueFrom": _secret("redis", "password")}}
    return spec | ({"gcsFaultToleranceOptions": kept} if asked.redis else {})


def _group(name: str, asked: Kubernetes, count: tuple[int, int], env: Env, gpus: int = 0) -> dict[str, Any]:
    return {
        "groupName": name,
        "replicas": count[0],
        "minReplicas": count[0],
        "maxReplicas": count[1],
        "rayStartParams": {},
        "template": _pod(asked, "ray-worker", env, gpus),
    }


def _pod(asked: Kubernetes, container: str, env: Env, gpus: int = 0) -> dict[str, Any]:
    """A pod that keeps to the restricted profile."""
    spec: dict[str, Any] = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(asked, container, env, gpus)],
        "volumes": [
            {"name": "pipelines", "configMap": {"name": "pipelines"}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{max(asked.memory_gib // 4, 1)}Gi"}},
            {"name": "logs", "emptyDir": {}},
        ],
    }
    return {"spec": spec}


def _container(asked: Kubernetes, name: str, env: Env, gpus: int) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": name,
        "image": asked.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "RAY_DATA_DISABLE_PROGRESS_BARS", "value": "1"}, *env],
        "resources": _resources(str(asked.cpus), f"{asked.memory_gib}Gi", gpus),
        "securityContext": _confined(),
        "volumeMounts": [
            {"name": "pipelines", "mountPath": FOLDER, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 (the store of objects)
            {"name": "logs", "mountPath": "/tmp/ray"},  # noqa: S108 (Ray's folder)
        ],
    }
    if name == "ray-head":
        container["ports"] = [{"name": each, "containerPort": port} for each, port in _PORTS.items()]
    return container


def _resources(cpus: str, memory: str, gpus: int = 0) -> dict[str, Any]:
    asked = {"cpu": cpus, "memory": memory} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    return {"requests": dict(asked), "limits": dict(asked)}


def _confined() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _secret(name: str, key: str) -> dict[str, Any]:
    return {"secretKeyRef": {"name": name, "key": key}}
