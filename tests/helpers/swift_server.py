"""OpenStack Swift with its S3 API, one node, in one process: python -P swift_server.py FOLDER RESERVE

Prints the port of the S3 API, and ends when its standard input ends, with all it keeps. RESERVE is the disk space
that must stay free, as "0" or "100%". Each server listens before the ring with its port is written, so the system
chooses free ports and nobody can take them in between.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

SERVERS = ("account", "container", "object")
KEY, SECRET, REGION = "test:tester", "testing", "us-east-1"
PIPELINE = "catch_errors gatekeeper healthcheck listing_formats bulk s3api tempauth slo dlo proxy-server"
OPTIONS = {
    "s3api": {"location": REGION, "s3_acl": "false", "allow_multipart_uploads": "true", "min_segment_size": "5242880"},
    "tempauth": {"user_test_tester": f"{SECRET} .admin"},
}


def serve(folder: Path, reserve: str) -> None:
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
    utils.FALLOCATE_RESERVE, utils.FALLOCATE_IS_PERCENT = utils.config_fallocate_value(reserve)
    if reserve == "0":
        utils.disable_fallocate()
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
        "fallocate_reserve": 0,  # of accounts and buckets; that of objects is below
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
    shutil.rmtree(folder, ignore_errors=True)
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
    serve(Path(sys.argv[1]), sys.argv[2])
