"""Words that the CloudFormation templates share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["allowed", "exported", "imported", "retained", "stack", "sub"]

Data = dict[str, Any]


def stack(title: str, resources: Mapping[str, Any], outputs: Mapping[str, Any]) -> Data:
    """A template (CloudFormation user guide, "Template anatomy")."""
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": title,
        "Resources": dict(resources),
        "Outputs": dict(outputs),
    }


def sub(text: str) -> Data:
    """A text in which CloudFormation fills in its own names: partition, region, account."""
    return {"Fn::Sub": text}


def exported(name: str, value: Any, told: str) -> Data:
    """An output that other stacks import as *name*."""
    return {"Description": told, "Value": value, "Export": {"Name": name}}


def imported(name: str) -> Data:
    """What another stack exports as *name*."""
    return {"Fn::ImportValue": name}


def retained(kind: str, properties: Mapping[str, Any]) -> Data:
    """A resource that holds data: it outlives its stack."""
    return {
        "Type": kind,
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": dict(properties),
    }


def allowed(sid: str, actions: Sequence[str], resources: Any, condition: Mapping[str, Any] | None = None) -> Data:
    """A statement that allows."""
    statement = {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": resources}
    return statement | ({"Condition": dict(condition)} if condition else {})
