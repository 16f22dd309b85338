from penstock.infra.storage import render

FILE = "cloudformation/storage.yaml"


def test_the_bucket_is_as_it_was(example, golden):
    assert render(example) == {FILE: golden(FILE)}


def test_the_bucket_is_versioned_encrypted_and_closed(example):
    bucket = render(example)[FILE]["Resources"]["Data"]["Properties"]
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert len(bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]) == 1
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4


def test_plain_http_and_old_tls_are_denied(example):
    first, second = render(example)[FILE]["Resources"]["DataPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert (first["Effect"], first["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert (second["Effect"], second["Condition"]) == ("Deny", {"NumericLessThan": {"s3:TlsVersion": "1.2"}})


def test_days_and_name_come_from_the_deployment(changed):
    bucket = render(changed("noncurrent_days = 30", "noncurrent_days = 9"))[FILE]["Resources"]["Data"]["Properties"]
    rules = {rule["Id"]: rule for rule in bucket["LifecycleConfiguration"]["Rules"]}
    assert rules["superseded-versions"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 9}
    assert bucket["BucketName"] == "penstock-example-data"
