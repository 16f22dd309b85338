"""Rules for KubeRay's manifests.

Sources: Kubernetes, "Pod Security Standards" (the restricted profile), "Resource management for pods and containers";
KubeRay, ``ray-operator/apis/ray/v1``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from penstock.infra.policies.rule import Breach, Documents, Found, Rule, at, listed, rule, walked

__all__ = ["RULES"]

_SECRET = re.compile(r"(?i)(password|passwd|secret|token|api_?key|access_?key|credential)")


def cluster_of(manifest: Any) -> tuple[str, Any]:
    """The cluster that a manifest describes, with its path."""
    key = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(str(at(manifest, "kind")))
    return (f"spec.{key}", at(manifest, "spec", key)) if key else ("spec", at(manifest, "spec"))


def _groups(manifest: Any) -> Iterator[tuple[str, Any]]:
    path, cluster = cluster_of(manifest)
    if at(cluster, "headGroupSpec"):
        yield f"{path}.headGroupSpec", at(cluster, "headGroupSpec")
    for index, group in enumerate(listed(at(cluster, "workerGroupSpecs"))):
        yield f"{path}.workerGroupSpecs.{index}", group


def _pods(manifest: Any) -> Iterator[tuple[str, Any]]:
    for path, group in _groups(manifest):
        yield f"{path}.template.spec", at(group, "template", "spec") or {}


def _containers(manifest: Any) -> Iterator[tuple[str, Any, Any]]:
    for path, pod in _pods(manifest):
        for key in ("initContainers", "containers"):
            for index, one in enumerate(listed(at(pod, key))):
                yield f"{path}.{key}.{index}", pod, one


@rule("K8S-ROOT", "Containers do not run as root", "Set securityContext.runAsNonRoot to true in the pod.")
def rootless(manifest: Any) -> Iterator[Breach]:
    for path, pod, one in _containers(manifest):
        own = at(one, "securityContext", "runAsNonRoot")
        if (at(pod, "securityContext", "runAsNonRoot") if own is None else own) is not True:
            yield f"{path}.securityContext.runAsNonRoot", "not true"


@rule(
    "K8S-PRIVILEGE",
    "Containers gain no privileges",
    "Set allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, and take privileged away.",
)
def confined(manifest: Any) -> Iterator[Breach]:
    for path, _, one in _containers(manifest):
        context = at(one, "securityContext") or {}
        dropped = listed(at(context, "capabilities", "drop"))
        if context.get("privileged") or context.get("allowPrivilegeEscalation") is not False or "ALL" not in dropped:
            yield f"{path}.securityContext", f"{dict(context)}"


@rule("K8S-HOST", "Pods share nothing with their host", "Take hostNetwork, hostPID, hostIPC and hostPath away.")
def apart(manifest: Any) -> Iterator[Breach]:
    for path, pod in _pods(manifest):
        for inner, value in walked(pod, path):
            if inner.rpartition(".")[2] in ("hostNetwork", "hostPID", "hostIPC", "hostPath") and value:
                yield inner, f"{value}"


@rule("K8S-IMAGE", "Images are pinned", "Give the image a tag that is not latest, or a digest.")
def pinned(manifest: Any) -> Iterator[Breach]:
    for path, _, one in _containers(manifest):
        image = str(at(one, "image") or "")
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in image and tag in ("", "latest"):
            yield f"{path}.image", image or "none"


@rule("K8S-LIMITS", "Containers say how much CPU and memory they take, and no more", "Set resources.limits.")
def bounded(manifest: Any) -> Iterator[Breach]:
    for path, _, one in _containers(manifest):
        limits = at(one, "resources", "limits") or {}
        if missing := [key for key in ("cpu", "memory") if key not in limits]:
            yield f"{path}.resources.limits", f"no {', no '.join(missing)}"


@rule("K8S-SECRET", "No secret stands in a manifest", "Use valueFrom: {secretKeyRef: ...}.")
def by_reference(manifest: Any) -> Iterator[Breach]:
    for path, value in walked(manifest):
        name = at(value, "name")
        if isinstance(name, str) and _SECRET.search(name) and at(value, "value"):
            yield f"{path}.value", f"a value for {name}"
    if at(manifest, "kind") == "Secret":
        yield "kind", "a Secret"


@rule("K8S-COUNTS", "A group of workers says its most, no fewer than its least", "Set minReplicas <= replicas <= max.")
def counts(manifest: Any) -> Iterator[Breach]:
    for path, group in _groups(manifest):
        if path.endswith("headGroupSpec"):
            continue
        least, most = at(group, "minReplicas") or 0, at(group, "maxReplicas")
        now = least if at(group, "replicas") is None else at(group, "replicas")
        if not all(isinstance(one, int) for one in (least, now, most)) or not least <= now <= most:
            yield f"{path}.maxReplicas", f"minReplicas {least}, replicas {now}, maxReplicas {most}"


@rule(
    "K8S-OPEN",
    "Ray's head, which runs whatever is sent to it, is not reached from outside the cluster",
    "Set serviceType: ClusterIP and take enableIngress away.",
)
def inside(manifest: Any) -> Iterator[Breach]:
    path, cluster = cluster_of(manifest)
    kind = at(cluster, "headGroupSpec", "serviceType")
    if kind not in (None, "ClusterIP") or at(cluster, "headGroupSpec", "enableIngress"):
        yield f"{path}.headGroupSpec.serviceType", f"{kind}"


def _versions(documents: Documents) -> Found:
    said = {file: at(cluster_of(one)[1], "rayVersion") for file, one in documents.items()}
    kinds = {file: one for file, one in said.items() if str(at(documents[file], "kind")).startswith("Ray")}
    first = next(iter(kinds.values()), None)
    for file, version in kinds.items():
        if version is None or version != first:
            yield file, f"{cluster_of(documents[file])[0]}.rayVersion", f"{version}, elsewhere {first}"


VERSION = Rule("K8S-VERSION", "All manifests name the same Ray", "Set rayVersion to that of the image.", _versions)

RULES: tuple[Rule, ...] = (rootless, confined, apart, pinned, bounded, by_reference, counts, inside, VERSION)
