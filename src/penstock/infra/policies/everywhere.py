"""Rules for every file: what belongs to one account, one machine or nobody's eyes has no place in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from penstock.infra.policies.rule import Breach, Rule, rule, walked

__all__ = ["RULES"]

_ACCOUNT = re.compile(r"(?<![0-9a-fA-F])\d{12}(?![0-9a-fA-F])")
_REGISTRY = re.compile(r"^(?:[a-z0-9-]+\.)+[a-z]{2,}(?::\d+)?/\S+|^localhost(?::\d+)?/\S+")
_MACHINE = re.compile(r"(?:^|[\s\"'=:,])/(?:home|root|Users|work|mnt/c)/\w")
_SECRET = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----|\bghp_\w{36}\b|\bhf_\w{34}\b")


def _texts(document: Any) -> Iterator[tuple[str, str]]:
    return ((path, str(value)) for path, value in walked(document) if isinstance(value, str | int))


@rule(
    "ANY-ACCOUNT",
    "No file carries the id of an account",
    "Use ${AWS::AccountId} in templates; keep what needs an id in a deploy.toml of yours, outside the repository.",
)
def account(document: Any) -> Iterator[Breach]:
    for path, text in _texts(document):
        if found := _ACCOUNT.search(text):
            yield path, found[0]


@rule(
    "ANY-REGISTRY",
    "Images are named without the host of a registry",
    "Name the image alone; a kustomization or your cluster's mirror adds the host.",
)
def registry(document: Any) -> Iterator[Breach]:
    for path, text in _texts(document):
        if path.rpartition(".")[2].lower().endswith("image") and _REGISTRY.search(text):
            yield path, text


@rule("ANY-MACHINE", "No file names a folder of the machine that made it", "Use ~ or a place that all machines have.")
def machine(document: Any) -> Iterator[Breach]:
    for path, text in _texts(document):
        if found := _MACHINE.search(text):
            yield path, found[0].strip()


@rule("ANY-SECRET", "No file holds a key", "Take it away, end its life where it was made, and refer to a secret.")
def secret(document: Any) -> Iterator[Breach]:
    for path, text in _texts(document):
        if found := _SECRET.search(text):
            yield path, f"{found[0][:4]}..."


RULES: tuple[Rule, ...] = (account, registry, machine, secret)
