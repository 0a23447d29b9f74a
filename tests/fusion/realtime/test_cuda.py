"""The GPU path: its arithmetic on the CPU; with CUDA, the graphs too."""

from __future__ import annotations

import pickle

import pytest
import torch

from fusion.realtime.cuda import MAX_GRAPHS, on_gpu
from tests.helpers.aenets import apart, pair, trained

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("block", ["gcb", "cnn", "pool"])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06), (torch.float16, 0.01)])
def test_on_a_cpu_without_a_graph(block, dtype, close):
    model = trained(block)
    network = on_gpu(model, dtype, "cpu")
    for size in [(3, 5), (21, 30)]:
        images = pair(2, size)
        image = network(*images).image
        assert image.dtype == torch.float32
        assert 0 < apart(image, model(*images).image) + 1e-12 < close
    assert torch.equal(pickle.loads(pickle.dumps(network))(*images).image, image)


def test_the_type_follows_the_range_of_the_weights():
    model = trained()
    assert on_gpu(model, device="cpu").dtype == torch.float16
    model.head[1].weight.fill_(1e5)
    assert on_gpu(model, device="cpu").dtype == torch.bfloat16


def test_unlike_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        on_gpu(trained(), torch.float32, "cpu")(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 5))


@needs_cuda
def test_graphs_of_several_shapes_and_new_inputs():
    model = trained(width=64)
    network = on_gpu(model)
    for size in [(8 + n, 30) for n in range(MAX_GRAPHS + 2)] * 2:
        for seed in (1, 2):
            images = pair(2, size, seed)
            image = network(*images.cuda()).image
            assert apart(image.cpu(), model(*images).image) < 0.02
            kept = image.clone()
            network(*pair(2, size, 5).cuda())
            assert torch.equal(image, kept)
    assert len(network._graphs) == MAX_GRAPHS
