"""The CPU path: equal to the network everywhere, whatever the strips and threads; threads, copies, errors."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
import torch

from fusion import inference, realtime
from fusion.models.aenet import BLOCKS
from fusion.realtime.cpu import REACH, FastAENet
from fusion.realtime.tiles import strip_rows
from fusion.realtime.workers import Workers
from tests.helpers.aenets import apart, pair, trained

SIZES = [(1, 1), (3, 5), (16, 16), (1, 40), (37, 53)]


@pytest.mark.parametrize("block", BLOCKS)
def test_equals_the_network_of_every_block(block):
    model = trained(block)
    network = FastAENet(realtime.Folded(model), threads=2, rows=7)
    for size in SIZES:
        images = pair(2, size)
        assert apart(network(*images).image, model(*images).image) < 1e-5, size


def test_equals_the_network_at_400_x_400_and_640_x_480():
    model = trained(width=64)
    network = realtime.fold(model, threads=2)
    for size in [(400, 400), (480, 640)]:
        images = pair(1, size)
        expected = model(*images).image
        assert apart(network(*images).image, expected) < 1e-5
        assert expected.std() > 0.1


@pytest.mark.parametrize("block", ["gcb", "separable"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (37, 53), (64, 9)])
def test_strips_of_any_height_and_any_threads_give_the_same_bytes(block, size):
    folded = realtime.Folded(trained(block))
    images = pair(2, size)
    expected = FastAENet(folded, threads=1)(*images).image
    for rows in (1, 4, 5, 6, 13, 100):
        for threads in (1, 2, 3):
            assert torch.equal(FastAENet(folded, threads, rows)(*images).image, expected), (rows, threads)


@pytest.mark.parametrize("block", REACH)
def test_strips_of_other_blocks_differ_by_rounding_alone(block):
    folded = realtime.Folded(trained(block))
    images = pair(1, (41, 33))
    expected = FastAENet(folded, threads=1, rows=41)(*images).image
    for rows in (1, 5, 12):
        for threads in (1, 3):
            assert apart(FastAENet(folded, threads, rows)(*images).image, expected) < 1e-5


def test_nothing_is_left_over_from_the_image_before():
    network, model = realtime.fold(trained(), threads=2), trained()
    for size in [(60, 40), (60, 40), (33, 40), (5, 40), (60, 40), (7, 3)]:
        images = pair(3, size, seed=sum(size)) * 5
        first = network(*images).image
        assert apart(first, model(*images).image) < 3e-5
        assert torch.equal(first, network(*images).image)


def test_the_callers_threads_stay_as_they_were():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        realtime.fold(trained(), threads=3)(*pair(1, (20, 20)))
        assert torch.get_num_threads() == 2
        seen: list[int] = []
        Workers(2).run([lambda: seen.append(torch.get_num_threads())] * 4)
        assert seen == [1] * 4 and torch.get_num_threads() == 2
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [2]
    finally:
        torch.set_num_threads(before)


def test_a_failing_task_is_heard_of():
    with pytest.raises(ZeroDivisionError):
        Workers(2).run([lambda: None, lambda: 1 / 0])


def test_copies_and_pickles_work_after_use():
    network, images = realtime.fold(trained(), threads=2), pair(1, (20, 30))
    expected = network(*images).image
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(*images).image, expected)


def test_inference_takes_it_in_place_of_the_network():
    model = trained()
    visible = np.random.default_rng(0).integers(0, 256, (35, 50, 3), dtype=np.uint8)
    infrared = visible[::-1, ::-1, 0].copy()
    image = inference.fuse(realtime.fold(model, threads=1), visible, infrared)
    slow = inference.fuse(model, visible, infrared)
    assert image.shape == visible.shape and np.abs(image.astype(int) - slow).max() <= 1
    assert image.std() > 10


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 5)),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)),
        (torch.zeros(4, 4), torch.zeros(4, 4)),
        (torch.zeros(1, 1, 4, 4, dtype=torch.float64), torch.zeros(1, 1, 4, 4, dtype=torch.float64)),
    ],
)
def test_other_images_are_refused(first, second):
    with pytest.raises(ValueError, match="the images must be"):
        realtime.fold(trained(), threads=1)(first, second)


@pytest.mark.parametrize("numbers", [{"threads": 0}, {"threads": -1}, {"rows": 0}])
def test_threads_and_rows_must_be_positive(numbers):
    with pytest.raises(ValueError, match="at least 1"):
        FastAENet(realtime.Folded(trained()), **numbers)


def test_strips_are_about_equal_and_fit():
    for height, width in [(1, 1), (400, 400), (480, 640), (100, 5000), (3000, 2)]:
        rows = strip_rows(height, width, 4000)
        assert rows >= 4 and (rows == 4 or rows * (width + 2) <= 6100)


def test_fastest_is_real_time_for_an_aenet_and_the_network_itself_for_others():
    network = trained("gcb")
    fast = realtime.fastest(network, "cpu", threads=1)
    assert isinstance(fast, FastAENet)
    assert fast.threads == 1
    visible, infrared = pair(1, (20, 30))
    with torch.no_grad():
        assert apart(fast(visible, infrared).image, network(visible, infrared).image) < 1e-6
    other = torch.nn.Linear(1, 1)
    assert realtime.fastest(other, "cpu") is other
