"""What an object store can refuse: named, with what to do, and soon."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_data import ObjectStore

from harness.store import RunFolder, StoreError
from harness.store.s3 import Bucket, is_object, parse_address, within

WORD = st.text("abcXYZ019-_. =", min_size=1, max_size=8).filter(lambda w: w not in {".", ".."})


@given(bucket=st.text("abc019-", min_size=3, max_size=9), parts=st.lists(WORD, min_size=1))
def test_an_address_is_read_in_both_spellings(bucket, parts):
    prefix = "/".join(parts)
    for text in (f"s3://{bucket}/{prefix}", f"s3:/{bucket}/{prefix}/"):
        address = parse_address(text)
        assert is_object(text)
        assert (address.bucket, address.prefix) == (bucket, prefix)
        assert parse_address(str(address)) == address


@pytest.mark.parametrize("text", ["s3://", "s3://lab", "s3://lab/", "s3://lab/../x", "s3:///x"])
def test_an_address_without_a_name_is_refused(text):
    with pytest.raises(StoreError, match="no address") as error:
        RunFolder.create(text, {})
    assert "s3://BUCKET/NAME" in str(error.value)


def test_a_bucket_that_is_not_there(lab: ObjectStore):
    for act in (RunFolder.open, lambda url: RunFolder.create(url, {})):
        with pytest.raises(StoreError, match="no bucket 'nowhere'"):
            act("s3://nowhere/run")


@pytest.fixture
def guarded(lab: ObjectStore, s3_server: str) -> Iterator[tuple[str, str]]:
    """Make the store ask for credentials; yields those of a user who may only read."""
    import boto3

    iam = boto3.client(
        "iam",
        endpoint_url=s3_server,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    iam.create_user(UserName="reader")
    policy = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": ["s3:List*", "s3:GetObject"], "Resource": "*"}],
    }
    iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    RunFolder.create(lab.url, {})

    def ask(after: str) -> None:
        request = urllib.request.Request(
            f"{s3_server}/moto-api/reset-auth",
            data=after.encode(),
            headers={"Content-Type": "text/plain"},
        )
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()

    ask("0")
    yield key["AccessKeyId"], key["SecretAccessKey"]
    ask("1000000000")


def test_wrong_credentials_and_missing_permission(guarded, lab: ObjectStore):
    with pytest.raises(StoreError, match="does not know these credentials") as error:
        RunFolder.open(lab.url)
    assert "AWS_ACCESS_KEY_ID" in str(error.value)
    lab.monkeypatch.setenv("AWS_ACCESS_KEY_ID", guarded[0])
    with pytest.raises(StoreError, match="does not know these credentials"):
        RunFolder.open(lab.url)
    lab.monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", guarded[1])
    folder = RunFolder.open(lab.url)
    with pytest.raises(StoreError, match="refuses access") as error:
        folder.write_result("a", "H", [{"task_id": "a"}])
    assert "PutObject" in str(error.value)
    with pytest.raises(StoreError, match="refuses access"), folder.lock():
        pass


def test_nobody_answers(lab: ObjectStore):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    lab.monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    began = time.monotonic()
    with pytest.raises(StoreError, match="cannot be reached") as error:
        RunFolder.open(lab.url)
    assert f"127.0.0.1:{port}" in str(error.value)
    assert "AWS_ENDPOINT_URL" in str(error.value)
    assert time.monotonic() - began < 15


def test_a_server_that_takes_the_call_and_says_nothing(lab: ObjectStore):
    with socket.create_server(("127.0.0.1", 0)) as server:
        lab.monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        lab.monkeypatch.setattr("harness.store.s3.FIRST_S", 0.5)
        with pytest.raises(StoreError, match=r"cannot be reached: .*timed out after 0.5 s"):
            Bucket(parse_address(lab.url)).list()


def test_errors_and_values_come_through_the_limit():
    assert within(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)
    with pytest.raises(TimeoutError):
        within(0.01, lambda: time.sleep(0.2))
