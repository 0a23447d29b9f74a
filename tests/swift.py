"""A real S3 store for the tests: OpenStack Swift with its S3 API, one node, on free ports of the loopback interface.

`s3` starts it once a session and points the AWS variables at it; `bucket` is the URI of a new, empty bucket.
`Faults` is a proxy in front of it that answers errors, delays and cuts connections.

The account, container, object and proxy servers run in one process of their own (`python -P swift.py FOLDER`), which
ends with its standard input, so that it never outlives the tests.
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

SERVERS = ("account", "container", "object")
KEY, SECRET, REGION = "test:tester", "testing", "us-east-1"
START_SECONDS = 60
CANDIDATES = (None, "/dev/shm", "/var/tmp", str(Path.home()))  # the first is the usual place for temporary files
PIPELINE = "catch_errors gatekeeper healthcheck listing_formats bulk s3api tempauth slo dlo proxy-server"
OPTIONS = {
    "s3api": {"location": REGION, "s3_acl": "false", "allow_multipart_uploads": "true", "min_segment_size": "5242880"},
    "tempauth": {"user_test_tester": f"{SECRET} .admin"},
}


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


@contextlib.contextmanager
def running() -> Iterator[Store]:
    """A store from here to the end of the `with`; its files are deleted then."""
    folder = _folder()
    log = open(folder / "log", "wb")
    process = subprocess.Popen(
        [sys.executable, "-P", __file__, str(folder)],
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
    for parent in CANDIDATES:
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
    while True:
        try:
            with urllib.request.urlopen(f"{endpoint}/healthcheck", timeout=5) as answer:
                answer.read()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def serve(folder: Path) -> None:
    """Run the four servers in this process until standard input ends. Prints the port of the S3 API."""
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = tests\nswift_hash_path_suffix = tests\n"
        "[storage-policy:0]\nname = one\ndefault = yes\n[swift-constraints]\nmax_header_size = 32768\n"
    )
    os.environ["SWIFT_DIR"] = str(folder)

    import eventlet.tpool
    import eventlet.wsgi
    from swift.common import utils, wsgi
    from swift.common.constraints import MAX_REQUEST_LINE
    from swift.common.http_protocol import SwiftHttpProtocol
    from swift.common.ring import RingBuilder

    utils.monkey_patch()
    utils.set_swift_dir(str(folder))
    # Listening before there is a ring: the system chooses free ports, and nobody can take them in between.
    sockets = {name: eventlet.listen(("127.0.0.1", 0)) for name in (*SERVERS, "proxy")}
    ports = {name: socket.getsockname()[1] for name, socket in sockets.items()}
    for name in SERVERS:
        builder = RingBuilder(4, 1, 0)
        place = {"ip": "127.0.0.1", "port": ports[name], "device": "d1", "region": 1, "zone": 1, "weight": 1}
        builder.add_dev(place | {"replication_ip": "127.0.0.1", "replication_port": ports[name], "meta": ""})
        builder.rebalance(seed=1)
        builder.get_ring().save(str(folder / f"{name}.ring.gz"))
    (folder / "disk" / "d1").mkdir(parents=True)
    shared = {
        "swift_dir": folder,
        "devices": folder / "disk",
        "mount_check": "false",
        "disable_fallocate": "true",
        "fallocate_reserve": 0,
        "recon_cache_path": folder,
        "log_address": folder / "no-log",
        "account_autocreate": "true",
        "allow_account_management": "true",
    }
    for name, socket in sockets.items():
        path = folder / f"{name}-server.conf"
        path.write_text(_config(name, shared))
        app = wsgi.loadapp(str(path), global_conf={"log_name": name})
        # As Swift's own start does: clients of S3 want "ETag", which a server that capitalises makes "Etag".
        quiet = {"log": utils.NullLogger(), "protocol": SwiftHttpProtocol, "capitalize_response_headers": False}
        eventlet.spawn(eventlet.wsgi.server, socket, app, url_length_limit=MAX_REQUEST_LINE, **quiet)
    print(ports["proxy"], flush=True)
    while eventlet.tpool.execute(sys.stdin.buffer.read, 1):
        pass
    os._exit(0)


def _config(name: str, shared: dict) -> str:
    pipeline = PIPELINE if name == "proxy" else f"{name}-server"
    lines = ["[DEFAULT]", *(f"{key} = {value}" for key, value in shared.items())]
    lines += ["[pipeline:main]", f"pipeline = {pipeline}", f"[app:{name}-server]", f"use = egg:swift#{name}"]
    for part in pipeline.split()[:-1]:
        lines += [f"[filter:{part}]", f"use = egg:swift#{part}"]
        lines += [f"{key} = {value}" for key, value in OPTIONS.get(part, {}).items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
