"""The AE-Netv2 that comes with the package."""

import json

import numpy as np
import pytest
import torch

from fusion import inference, realtime, scenes, weights
from fusion.classical import CLASSICAL
from fusion.images.colour import to_grey
from fusion.metrics import score


@pytest.fixture(scope="module")
def loaded():
    return weights.load()


def test_it_is_the_papers_network(loaded):
    assert loaded.name == "aenet" and loaded.model.config.block == "gcb" and loaded.model.config.width == 64
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == 5378
    recipe = json.loads((weights.folder() / "config.json").read_text())["recipe"]
    assert (recipe["epochs"], recipe["batch_size"], recipe["crops"]["size"]) == (110, 16, 128)


def test_the_files_are_small_and_have_a_card():
    sizes = {path.name: path.stat().st_size for path in weights.folder().iterdir()}
    assert sizes["model.safetensors"] < 40_000 and sum(sizes.values()) < 60_000
    assert "MODEL_CARD.md" in sizes


def test_it_fuses_better_than_the_average(loaded):
    """On scenes, which it has never seen: Q_abf and the agreement with both sources' edges."""
    gains = []
    for index in range(4):
        scene = scenes.render(31, index, 240, 320)
        visible = to_grey(scene.visible)
        results = []
        for method in (loaded.model, CLASSICAL["average"].fuse):
            fused = inference.fuse(method, visible, scene.infrared)
            images = (torch.tensor(image)[None, None] for image in (fused, visible, scene.infrared))
            results.append(float(score(*images, names=("qabf",))["qabf"][0]))
        gains.append(results[0] - results[1])
    assert np.mean(gains) > 0.05


def test_the_fast_path_gives_the_same(loaded):
    scene = scenes.render(31, 0, 131, 177)
    quick = realtime.fold(loaded.model, threads=1)
    one, other = (inference.fuse(model, scene.visible, scene.infrared) for model in (loaded.model, quick))
    assert np.abs(one.astype(int) - other).max() <= 1
    first, second = torch.rand(2, 1, 1, 61, 83, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (loaded.model(first, second).image - quick(first, second).image).abs().max() < 1e-4


def test_the_networks_last_layer_is_alive(loaded):
    """No part of a usual picture falls to zero or above one for good."""
    scene = scenes.render(31, 1, 240, 320)
    fused = inference.fuse(loaded.model, to_grey(scene.visible), scene.infrared)
    assert (fused == 0).mean() < 0.05 and (fused == 255).mean() < 0.05 and fused.std() > 10
