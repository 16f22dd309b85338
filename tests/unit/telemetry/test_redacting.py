"""What may be secret does not go out."""

import pytest

from penstock.telemetry.redacting import address, said


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("s3://bucket/key?X-Amz-Signature=planted", "s3://bucket/key"),
        ("https://me:planted@host:80/path#planted", "https://host:80/path"),
        ("/data/what?.txt", "/data/what?.txt"),
        ("s3://bucket/a b", "s3://bucket/a b"),
    ],
)
def test_an_address_has_neither_query_nor_user(given, shown):
    assert address(given) == shown


@pytest.mark.parametrize(
    "text",
    [
        "reading s3://b/k?sig=planted-1 [0:9]: OSError: no",
        "job 7 failed: exit status 1\n  command: run --token planted-1\n  stderr: planted-1",
        "RuntimeError: 401 for planted-1 at host",
        'refused {"api_key": "planted-1"}',
        "login with password=planted-1, again",
        "Authorization: Bearer planted-1",
        "export AWS_SECRET_ACCESS_KEY=planted-1",
    ],
)
def test_a_text_has_no_secret(text):
    shown = said(text, {"MY_TOKEN": "planted-1"} if "401" in text else {})
    assert "planted" not in shown
    assert "\n" not in shown


def test_the_rest_of_a_text_stays():
    assert said("ValueError: the token count is 7 at s3://b/k?x=1 [0:9]", {}) == (
        "ValueError: the token count is 7 at s3://b/k [0:9]"
    )
    assert said("a" * 600, {}) == "a" * 500 + "..."


def test_values_of_secret_variables_go_and_those_of_others_stay():
    environment = {"DB_PASSWORD": "planted-long", "SHORT_KEY": "abc", "HOME": "/home/me"}
    assert said("abc in /home/me with planted-long", environment) == "abc in /home/me with ***"
