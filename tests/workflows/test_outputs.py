"""Claims and leases of output folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from fusion.errors import UserError
from workflows.outputs import Lease, claim_output, require_visible


def test_a_folder_is_claimed_once(tmp_path):
    out = str(tmp_path / "out")
    claim_output(out, "plan.json", {"a": 1, "b": (2, 3)}, "corpus")
    claim_output(out, "plan.json", {"a": 1, "b": (2, 3)}, "corpus")
    with pytest.raises(UserError, match="another corpus: a is 1 there and 2 now"):
        claim_output(out, "plan.json", {"a": 2, "b": [2, 3]}, "corpus")
    with pytest.raises(UserError, match=r"another corpus: b is \[2, 3\] there and None now"):
        claim_output(out, "plan.json", {"a": 1}, "corpus")
    (tmp_path / "out" / "plan.json").write_text("{")
    with pytest.raises(UserError, match="another corpus"):
        claim_output(out, "plan.json", {"a": 1}, "corpus")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not empty and holds no run"):
        claim_output(str(tmp_path), "settings.json", {}, "run")
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_hidden_files_are_told():
    require_visible("out", [], "shards")
    with pytest.raises(UserError, match=r"2 shards, a first, .* shared folder or s3://"):
        require_visible("out", ["a", "b"], "shards")


def test_a_lease_is_there_while_it_is_held(tmp_path):
    out = str(tmp_path)
    with Lease(out) as lease:
        held = json.loads((tmp_path / "lease.json").read_text())
        assert held["process"] == os.getpid()
        lease.check()
    assert not (tmp_path / "lease.json").exists()


def test_a_second_job_is_told_who_holds_it(tmp_path):
    with Lease(str(tmp_path)), pytest.raises(UserError, match=rf"process {os.getpid()} on .*, last heard of \d+ s ago"):
        with Lease(str(tmp_path)):
            pass
    with Lease(str(tmp_path)):
        pass


def test_a_beat_keeps_it_and_silence_loses_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Lease, "BEAT", 0.05)
    monkeypatch.setattr(Lease, "STALE", 0.6)
    with Lease(str(tmp_path)) as first:
        time.sleep(1.2)  # twice as long as a silent one would last
        with pytest.raises(UserError, match="is being written"), Lease(str(tmp_path)):
            pass
        first._stop.set()  # as if the machine hung
        time.sleep(0.8)
        with Lease(str(tmp_path)) as second:
            second.check()
            held = json.loads((tmp_path / "lease.json").read_text())
            assert held["id"] == second.me["id"]


def test_the_one_that_lost_it_stops_and_leaves_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Lease, "BEAT", 0.05)
    other = {"host": "elsewhere", "process": 1, "id": "x", "beat": time.time()}
    with Lease(str(tmp_path)) as lease:
        (tmp_path / "lease.json").write_text(json.dumps(other))
        time.sleep(0.5)
        with pytest.raises(UserError, match=r"process 1 on elsewhere.*This one stops"):
            lease.check()
    assert json.loads((tmp_path / "lease.json").read_text()) == other


def test_a_dead_process_of_this_machine_holds_nothing(tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "from workflows.outputs import Lease\n"
        "Lease(sys.argv[1]).__enter__(); os._exit(9)"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path), root]).returncode == 9
    assert (tmp_path / "lease.json").exists()
    with Lease(str(tmp_path)) as lease:
        lease.check()


def test_a_clock_that_is_wrong_takes_nothing_from_the_living(tmp_path, monkeypatch):
    monkeypatch.setattr(Lease, "BEAT", 0.1)
    now = time.time
    with Lease(str(tmp_path)) as first:
        for skew in (90, -90):
            monkeypatch.setattr("workflows.outputs.time.time", lambda skew=skew: now() + skew)
            beats = threading.Thread(
                target=first._renew, daemon=True
            )  # its own clock would go on; this keeps it beating
            beats.start()
            with pytest.raises(UserError, match="is being written"), Lease(str(tmp_path)):
                pass
        first.check()


def test_the_lease_of_another_is_left_at_the_end(tmp_path):
    other = {"host": "elsewhere", "process": 1, "id": "x", "beat": time.time()}
    with Lease(str(tmp_path)):
        (tmp_path / "lease.json").write_text(json.dumps(other))
    assert json.loads((tmp_path / "lease.json").read_text()) == other


def test_a_strange_failure_does_not_stop_the_heart(tmp_path, monkeypatch):
    monkeypatch.setattr(Lease, "BEAT", 0.05)
    with Lease(str(tmp_path)) as lease:
        monkeypatch.setattr(lease, "_write", lambda: 1 / 0)
        time.sleep(0.2)
        assert lease._thread.is_alive()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"beat": "now"}', '{"beat": 1e9, "host": "h"}'])
def test_damaged_and_old_leases_are_taken_over(tmp_path, monkeypatch, text):
    monkeypatch.setattr(Lease, "BEAT", 0.2)
    (tmp_path / "lease.json").write_text(text)
    with Lease(str(tmp_path)) as lease:
        lease.check()


def test_fingerprints_are_told_last(tmp_path):
    first = {"inputs": "a" * 64, "config": {"seed": 0, "preset": "grid"}}
    claim_output(str(tmp_path / "x"), "plan.json", first, "corpus")
    with pytest.raises(UserError, match=r"config.seed is 0 there and 1 now"):
        claim_output(
            str(tmp_path / "x"), "plan.json", {"inputs": "b" * 64, "config": {"seed": 1, "preset": "grid"}}, "corpus"
        )
    with pytest.raises(UserError, match="inputs differ: other files"):
        claim_output(str(tmp_path / "x"), "plan.json", first | {"inputs": "b" * 64}, "corpus")
