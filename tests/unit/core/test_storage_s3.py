"""S3 storage where a real server seldom goes: answers as the S3 manual has them, by botocore's stub."""

from __future__ import annotations

import sys

import boto3
import pytest
from botocore.stub import Stubber

from penstock.core import storage
from penstock.core.storage import S3
from penstock.errors import StorageError

STORE = S3()
PUT = {"Bucket": "b", "Key": "k", "Body": b"1", "IfNoneMatch": "*"}


@pytest.fixture
def s3(monkeypatch):
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y")
    monkeypatch.setattr(storage, "_client", lambda: client)
    with Stubber(client) as stub:
        yield stub
        stub.assert_no_pending_responses()


def refuse(s3, verb: str, code: str, status: int, wanted=None) -> None:
    s3.add_client_error(verb, code, "no", status, expected_params=wanted)


def test_a_create_that_met_another_one_and_then_won(s3):
    """409: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html"""
    refuse(s3, "put_object", "ConditionalRequestConflict", 409, PUT)
    refuse(s3, "head_object", "404", 404)
    s3.add_response("put_object", {}, PUT)
    assert STORE.create("s3://b/k", b"1")


def test_a_create_that_met_another_one_and_lost(s3):
    refuse(s3, "put_object", "ConditionalRequestConflict", 409, PUT)
    s3.add_response("head_object", {"ContentLength": 1, "ETag": '"e"'})
    assert not STORE.create("s3://b/k", b"1")


@pytest.mark.parametrize(
    ("code", "status", "wanted"),
    [
        ("AccessDenied", 403, "cannot write s3://b/k: access denied; the credentials lack a permission on this bucket"),
        ("NoSuchBucket", 404, "cannot write s3://b/k: there is no such bucket; create it or check the spelling"),
        ("InvalidAccessKeyId", 403, "the access key is not known; check AWS_ACCESS_KEY_ID or the profile"),
        ("SignatureDoesNotMatch", 403, "the secret key is wrong; check AWS_SECRET_ACCESS_KEY or the profile"),
        ("SlowDown", 503, r"cannot write s3://b/k: An error occurred \(SlowDown\) .*"),
    ],
)
def test_refusals_say_what_to_do(s3, code, status, wanted):
    refuse(s3, "put_object", code, status)
    with pytest.raises(StorageError, match=wanted):
        STORE.create("s3://b/k", b"1")


def test_pages_are_fetched_as_they_are_needed(s3):
    def page(numbers, token=None):
        return {
            "Contents": [{"Key": f"p/{name}", "Size": 1, "ETag": f'"{name}"'} for name in [*numbers, ""]],
            "IsTruncated": token is not None,
            **({"NextContinuationToken": token} if token else {}),
        }

    s3.add_response("list_objects_v2", page([1, 2], "more"), {"Bucket": "b", "Prefix": "p/"})
    stream = STORE.below("s3://b/p")
    assert next(stream).etag == "1"
    s3.add_response("list_objects_v2", page([3]), {"Bucket": "b", "Prefix": "p/", "ContinuationToken": "more"})
    assert [entry.uri for entry in stream] == ["s3://b/p/2", "s3://b/p/3"], "the folder that a console made is none"


def test_without_boto3_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    storage._client.cache_clear()
    with pytest.raises(StorageError, match=r"s3:// needs boto3: pip install 'penstock\[s3\]'"):
        STORE.read("s3://b/k")
