"""The bucket: versioned, encrypted, closed to the public, by TLS alone.

Sources: CloudFormation, ``AWS::S3::Bucket`` and ``AWS::S3::BucketPolicy``; S3 user guide, "Security best practices for
Amazon S3" (Block Public Access, ACLs off, ``aws:SecureTransport``, ``s3:TlsVersion``).
"""

from __future__ import annotations

from typing import Any

from penstock.infra.deployment import Deployment, Files, Storage
from penstock.infra.stack import exported, retained, stack, sub

__all__ = ["render"]


def render(deployment: Deployment) -> Files:
    """The stack ``NAME-storage``."""
    resources = {"Data": _bucket(deployment.storage), "DataPolicy": _policy(deployment.storage)}
    outputs = {"Bucket": exported(f"{deployment.name}-bucket", {"Ref": "Data"}, "Holds raw data and datasets")}
    title = f"{deployment.name}: bucket for raw data and datasets"
    return {"cloudformation/storage.yaml": stack(title, resources, outputs)}


def _bucket(storage: Storage) -> dict[str, Any]:
    closed = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    encryption = {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": False}
    return retained(
        "AWS::S3::Bucket",
        {
            "BucketName": storage.bucket,
            "PublicAccessBlockConfiguration": dict.fromkeys(closed, True),
            "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
            "BucketEncryption": {"ServerSideEncryptionConfiguration": [encryption]},
            "VersioningConfiguration": {"Status": "Enabled"},
            "LifecycleConfiguration": {"Rules": [_abandoned(storage), _superseded(storage)]},
        },
    )


def _abandoned(storage: Storage) -> dict[str, Any]:
    aborted = {"DaysAfterInitiation": storage.multipart_days}
    return {"Id": "abandoned-uploads", "Status": "Enabled", "AbortIncompleteMultipartUpload": aborted}


def _superseded(storage: Storage) -> dict[str, Any]:
    expired = {"NoncurrentDays": storage.noncurrent_days}
    return {"Id": "superseded-versions", "Status": "Enabled", "NoncurrentVersionExpiration": expired}


def _policy(storage: Storage) -> dict[str, Any]:
    statements = [
        _denied("OnlyTls", {"Bool": {"aws:SecureTransport": "false"}}),
        _denied("OnlyTls12", {"NumericLessThan": {"s3:TlsVersion": "1.2"}}),
    ]
    document = {"Version": "2012-10-17", "Statement": statements}
    return {
        "Type": "AWS::S3::BucketPolicy",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": {"Bucket": {"Ref": "Data"}, "PolicyDocument": document},
    }


def _denied(sid: str, condition: dict[str, Any]) -> dict[str, Any]:
    everything = [sub("${Data.Arn}"), sub("${Data.Arn}/*")]
    return {
        "Sid": sid,
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": everything,
        "Condition": condition,
    }
