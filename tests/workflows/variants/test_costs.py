"""`duskfuse variants --costs`, without Ray, and what a report shows of it."""

import json

import pandas as pd
import pytest

from fusion.models.costs import NETWORKS
from tests.helpers.command_line import one_line
from workflows.variants import costs, job


@pytest.fixture
def few(monkeypatch):
    """Two small networks in place of all of them."""
    networks = {name: NETWORKS[name] for name in ("AE-Netv2 gcb", "AE-Netv2 plain")}
    monkeypatch.setattr(job, "ALL_NETWORKS", networks)


def test_the_counts_of_all_networks(few, command, tmp_path):
    out = tmp_path / "costs"
    code, said, err = command("variants", "--costs", "--out", out)
    assert code == 0, err
    assert "2 networks" in said and "860,480,000" in err and "829,440,000" in err
    table = pd.read_csv(out / "costs.csv").set_index("network")
    assert table["parameters_x_pixels"].to_dict() == {"AE-Netv2 gcb": 860_480_000, "AE-Netv2 plain": 245_920_000}
    assert json.loads((out / "variants.json").read_text())["networks"] == list(table.index)
    assert command("variants", "--costs", "--out", out)[0] == 0  # again

    page = tmp_path / "r.html"
    code, _, err = command("report", "--variants", out, "--out", page)
    assert code == 0, err
    text = page.read_text()
    assert 'id="variants-1"' in text and ">Network</th>" in text and "829,440,000" in text and "5,378" in text
    assert f"duskfuse variants --costs --out {out}" in text


def test_every_network_has_a_row():
    names = " ".join(costs.ALL_NETWORKS)
    assert len(costs.ALL_NETWORKS) == 14
    assert all(word in names for word in ("AE-Netv2 gcb", "TG-ECNet", "MoE-Fusion", "detectors"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["variants", "--costs", "--blocks", "gcb"], "leave out --evolution and --blocks"),
        (["variants"], "or --costs, to count alone"),
    ],
)
def test_options_that_do_not_go_together(words, said, command, tmp_path):
    code, _, err = command(*words, "--out", tmp_path / "x")
    assert code == 2
    one_line(err, said)


def test_an_unfinished_study_is_told(command, tmp_path):
    code, _, err = command("report", "--variants", tmp_path, "--out", tmp_path / "r.html")
    assert code == 2
    one_line(err, "no finished `duskfuse variants`")
