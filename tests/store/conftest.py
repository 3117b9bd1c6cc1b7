"""A real object store on loopback, and machines that share nothing else."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from store_data import ObjectStore


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server with the bucket `lab`."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="lab")
    yield address
    server.stop()


@pytest.fixture
def lab(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """A run folder's address in the object store, and a way to change machines."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    store = ObjectStore(f"s3://lab/{tmp_path.name}", tmp_path, monkeypatch)
    store.on_machine("one")
    return store
