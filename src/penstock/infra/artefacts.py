"""All artefacts together, as texts: what a folder of rendered files holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import yaml

from penstock.infra import access, budget, filesystem, kuberay, network, parallelcluster, ray_aws, storage
from penstock.infra.deployment import Deployment
from penstock.infra.render import HEAD

__all__ = ["ARTEFACTS", "dumped", "rendered"]

ARTEFACTS: tuple[ModuleType, ...] = (
    network,
    storage,
    filesystem,
    access,
    budget,
    parallelcluster,
    ray_aws,
    kuberay,
)
"""In the order in which they are deployed."""


class _Plain(yaml.SafeDumper):
    """No anchors, and lists stand deeper than their keys."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Plain.add_representer(str, _text)


def rendered(deployment: Deployment) -> Mapping[str, str]:
    """The text of each file by its path below the folder, always the same for the same *deployment*."""
    return dict(_texts(deployment))


def _texts(deployment: Deployment) -> Iterator[tuple[str, str]]:
    for artefact in ARTEFACTS:
        for path, data in artefact.render(deployment).items():
            yield path, dumped(data)


def dumped(data: Mapping[str, Any]) -> str:
    """YAML in the order of *data*."""
    text: str = yaml.dump(data, Dumper=_Plain, sort_keys=False, width=110, allow_unicode=True)
    return HEAD + text
