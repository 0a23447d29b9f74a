"""ONNX files: run by ONNX Runtime at sizes the graph was not traced with."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from fusion.errors import UserError
from fusion.models.configs import MoEFusionConfig
from fusion.models.moefusion import MoEFusion
from fusion.realtime.export import export_onnx
from tests.helpers.aenets import pair, trained

SIZES = [(1, (1, 1)), (2, (3, 5)), (1, (37, 53)), (3, (64, 48))]


def session(file):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("block", ["gcb", "pool"])
def test_any_batch_and_size(tmp_path, block):
    onnx, _ = pytest.importorskip("onnx"), pytest.importorskip("onnxscript")
    model, file = trained(block).train(), tmp_path / "network.onnx"
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    export_onnx(model, str(file))
    assert model.training and all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    assert [one.name for one in tmp_path.iterdir()] == ["network.onnx"]  # the weights inside
    kinds = [node.op_type for node in onnx.load(file).graph.node]
    assert "BatchNormalization" not in kinds and (block != "gcb" or kinds.count("Conv") == 2)
    run = session(file)
    assert [one.name for one in (*run.get_inputs(), *run.get_outputs())] == ["first", "second", "image"]
    model.eval()
    for batch, size in SIZES:
        images = pair(batch, size)
        image = run.run(None, {"first": images[0].numpy(), "second": images[1].numpy()})[0]
        expected = model(*images).image.numpy()
        assert image.shape == expected.shape
        assert np.abs(image - expected).max() < 1e-4


def test_a_network_that_is_no_fixed_graph_is_refused_in_one_line(tmp_path):
    pytest.importorskip("onnxscript")
    model = MoEFusion(MoEFusionConfig(grid=(3, 4), width=4, decoder_widths=(8, 6, 4))).eval()
    with pytest.raises(UserError, match="MoEFusion cannot be written as ONNX") as raised:
        export_onnx(model, str(tmp_path / "network.onnx"))
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_without_the_packages_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"duskfuse\[onnx\]"):
        export_onnx(trained(), str(tmp_path / "network.onnx"))
