"""A real S3 store for the tests: OpenStack Swift with its S3 API, one node, on free ports of the loopback interface.

`s3` starts it once a session and points the AWS variables at it; `bucket` is the URI of a new, empty bucket;
`faults` is a proxy in front of it that misbehaves as told, and the AWS variables lead through it.

Its process is `swift_server.py`, and ends with its standard input, so that it never outlives the tests.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.flaky_proxy import Faults
from tests.helpers.swift_server import KEY, REGION, SECRET

SERVER = Path(__file__).with_name("swift_server.py")
START_SECONDS = 60
PLACES = (None, "/dev/shm", "/var/tmp", str(Path.home()))  # the first is the usual place for temporary files
UNSET = ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN")


@dataclass(frozen=True)
class Store:
    """A running store. `process` is its one process, `folder` what it keeps on disk."""

    endpoint: str
    folder: Path
    process: subprocess.Popen

    def client(self):
        """A boto3 client that does not depend on the environment."""
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name=REGION
        )

    def new_bucket(self) -> str:
        """The URI of a new bucket."""
        name = f"b-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def pretend(self, bucket: str, names: list[str]) -> None:
        """Put names into the bucket's listing, without objects behind them: thousands in an instant."""
        from swift.common.utils import Timestamp
        from swift.container.backend import ContainerBroker

        brokers = [ContainerBroker(str(path)) for path in self.folder.glob("disk/d1/containers/**/*.db")]
        (broker,) = (b for b in brokers if b.get_info()["container"] == bucket.removeprefix("s3://"))
        same = {"created_at": Timestamp.now().internal, "size": 1, "content_type": "text/plain", "etag": "0" * 32}
        broker.merge_items([same | {"name": name, "deleted": 0, "storage_policy_index": 0} for name in names])

    def uploads(self, bucket: str) -> list[str]:
        """Keys of multipart uploads that were begun and neither completed nor aborted."""
        found = self.client().list_multipart_uploads(Bucket=bucket.removeprefix("s3://"))
        return [upload["Key"] for upload in found.get("Uploads", [])]


def environment(endpoint: str) -> dict[str, str]:
    """What a program needs in its environment to use the store."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="session")
def s3() -> Iterator[Store]:
    """The store, and the environment that leads to it, for the rest of the session."""
    with running() as store, pytest.MonkeyPatch.context() as patch:
        for name in UNSET:
            patch.delenv(name, raising=False)
        for name, value in environment(store.endpoint).items():
            patch.setenv(name, value)
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, ",".join(filter(None, (os.environ.get(name), "127.0.0.1"))))
        yield store


@pytest.fixture
def bucket(s3) -> str:
    return s3.new_bucket()


@pytest.fixture
def faults(s3, monkeypatch) -> Iterator[Faults]:
    proxy = Faults(s3.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    yield proxy
    proxy.close()


@contextlib.contextmanager
def running(reserve: str = "0") -> Iterator[Store]:
    """A store from here to the end of the `with`; its files are deleted then. `reserve`: disk space left free."""
    folder = _folder()
    log = open(folder / "log", "wb")
    process = subprocess.Popen(
        [sys.executable, "-P", str(SERVER), str(folder), reserve],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={"EVENTLET_NO_GREENDNS": "yes"} | os.environ | {"PYTHONWARNINGS": "ignore"},
        start_new_session=True,  # an interrupt of the tests must not take the store away before they have ended
    )
    try:
        ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
        port = process.stdout.readline().decode().strip() if ready else ""
        if not port:
            said = (folder / "log").read_text(errors="replace")
            raise RuntimeError(f"Swift did not start (exit code {process.poll()}):\n{said[-2000:]}")
        endpoint = f"http://127.0.0.1:{port}"
        _wait_until_healthy(endpoint)
        yield Store(endpoint, folder, process)
    finally:
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _folder() -> Path:
    """A new folder on a file system with extended attributes, in which Swift keeps what it knows of a file."""
    for parent in PLACES:
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="swift-", dir=parent))
            try:
                os.setxattr(folder, "user.swift", b"x" * 2000)
                return folder
            except OSError:
                shutil.rmtree(folder)
    raise RuntimeError("no folder with extended attributes for Swift; set TMPDIR to one on ext4, xfs or btrfs")


def _wait_until_healthy(endpoint: str) -> None:
    end = time.monotonic() + START_SECONDS
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with direct.open(f"{endpoint}/healthcheck", timeout=5) as answer:
                answer.read()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
