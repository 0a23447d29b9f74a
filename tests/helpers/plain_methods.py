"""The classical methods written down as their papers have them: grey levels 0..255, scipy, nothing shared or saved.

They share no code with fusion.classical. The tests compare against them; benchmarks/library.py times them beside it.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve


def box(image, radius):
    size, options = 2 * radius + 1, {"mode": "constant"}
    total = ndimage.uniform_filter(image, size, **options)
    return total / ndimage.uniform_filter(np.ones_like(image), size, **options)


def guided(guide, image, radius, epsilon):
    mean_guide, mean = box(guide, radius), box(image, radius)
    a = (box(guide * image, radius) - mean_guide * mean) / (box(guide * guide, radius) - mean_guide**2 + epsilon)
    b = mean - a * mean_guide
    return box(a, radius) * guide + box(b, radius)


def gaussian(image, radius, sigma, mode):
    x = np.arange(-radius, radius + 1)
    window = np.exp(-(x**2 + x[:, None] ** 2) / (2 * sigma**2))
    taps = window.sum(axis=0) / window.sum()
    return ndimage.correlate1d(ndimage.correlate1d(image, taps, axis=0, mode=mode), taps, axis=1, mode=mode)


def adf(visible, infrared):
    base_1, base_2 = plain_diffusion(infrared), plain_diffusion(visible)
    detail_1, detail_2 = infrared - base_1, visible - base_2
    values, vectors = np.linalg.eig(np.cov([detail_1.ravel(), detail_2.ravel()]))
    vector = vectors[:, np.argmax(values)]
    vector = vector / vector.sum()
    return (base_1 + base_2) / 2 + vector[0] * detail_1 + vector[1] * detail_2


def plain_diffusion(image):
    steps = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]
    for _ in range(10):
        change = 0
        for step in steps:
            difference = ndimage.shift(image, step, order=0, mode="constant", prefilter=False) - image
            change = change + difference * np.exp(-((difference / 30) ** 2)) / (1 if 0 in step else 2)
        image = image + 0.15 * change
    return image


def mgff(visible, infrared):
    first, second, fused = infrared, visible, 0
    for _ in range(4):
        base_1, base_2 = guided(first, second, 9, 1000), guided(second, first, 9, 1000)
        detail_1, detail_2 = first - base_1, second - base_2
        weight = np.abs(detail_1) / (np.abs(detail_1) + np.abs(detail_2))
        fused = fused + weight * detail_1 + (1 - weight) * detail_2
        first, second = base_1, base_2
    return fused + (first + second) / 2


def vsm_wls(visible, infrared):
    first, second = infrared / 255, visible / 255
    weight = 0.5 + 0.5 * (plain_saliency(first) - plain_saliency(second))
    layers = []
    for image in (first, second):
        details = []
        for sigma in (2, 4, 8):
            smooth = gaussian(image, 3 * sigma, sigma, "nearest")
            for _ in range(4):
                smooth = guided(smooth, image, sigma, 0.05**2)
            details.append(image - smooth)
            image = smooth
        base = gaussian(image, 6, 2, "nearest")
        layers.append([base, *details, image - base])
    fused = weight * layers[0][0] + (1 - weight) * layers[1][0]
    for level, (first, second) in enumerate(zip(*layers, strict=True)):
        larger = (np.abs(first) < np.abs(second)).astype(float)
        if level == 1:
            fused = fused + np.where(larger, second, first)
        if level > 1:
            share = gaussian(larger, 6, 2, "reflect")
            aim = share * second + (1 - share) * first
            pull = 0.01 / (np.abs(ndimage.uniform_filter(second, 7, mode="nearest")) + 1e-6)
            system = sparse.eye(first.size) + sparse.diags(pull.ravel())
            fused = fused + spsolve(system.tocsc(), (aim + pull * first).ravel()).reshape(first.shape)
    return fused * 255


def plain_saliency(image):
    levels = np.floor(image * 255 + 0.5)
    table = [np.abs(level - levels).sum() for level in range(256)]
    found = np.array(table)[levels.astype(int)]
    return (found - found.min()) / (found.max() - found.min())


def tif(visible, infrared):
    bases, details, saliences = [], [], []
    for image in (visible, infrared):
        bases.append(ndimage.uniform_filter(image, 35, mode="wrap"))
        details.append(image - bases[-1])
        saliences.append((bases[-1] - ndimage.median_filter(image, 3, mode="constant")) ** 2)
    weight = saliences[0] / (saliences[0] + saliences[1])
    return (bases[0] + bases[1]) / 2 + weight * details[0] + (1 - weight) * details[1]


def gff(visible, infrared):
    images = [visible / 255, infrared / 255]
    salience = [gaussian(np.abs(ndimage.laplace(image, mode="nearest")), 5, 5, "nearest") for image in images]
    chosen = (salience[0] > salience[1] + 1e-12).astype(float)
    fused = 0
    bases = [ndimage.uniform_filter(image, 31, mode="nearest") for image in images]
    for radius, epsilon, parts in (
        (45, 0.3, bases),
        (7, 1e-6, [image - base for image, base in zip(images, bases, strict=True)]),
    ):
        weights = [
            np.floor(np.clip(guided(image, mask, radius, epsilon), 0, 1) * 255 + 0.5) + 1e-9
            for image, mask in zip(images, (chosen, 1 - chosen), strict=True)
        ]
        fused = fused + (weights[0] * parts[0] + weights[1] * parts[1]) / (weights[0] + weights[1])
    return fused * 255


def hmsd_gf(visible, infrared):
    ratio = plain_perception(infrared) / plain_perception(visible)
    steep = 100 if ratio < 0.8 else 2000 if ratio > 1.6 else 2500 * ratio - 1900
    pyramids = []
    for image in (visible / 255, infrared / 255):
        blurred = kept = image
        layers = []
        for level in range(4):
            radius = 2 ** (level + 1)
            before, blurred = blurred, guided(blurred, blurred, radius, 100**2)
            kept = guided(kept, kept, radius, (0.1 / 2**level) ** 2)
            layers.append((before - kept, kept - blurred))
        pyramids.append((layers, blurred))
    (first, base_1), (second, base_2) = pyramids
    fused = 0
    for level in (3, 2, 1):
        lead = np.maximum(np.abs(second[level][1]) - np.abs(first[level][1]), 0)
        share = np.arctan(steep * lead / lead.max()) / np.arctan(steep)
        if level == 3:
            wide = gaussian(share, 192, 64, "reflect")
            fused = wide * base_2 + (1 - wide) * base_1
        share = gaussian(share, 3, 1, "reflect")
        for one, other in zip(first[level], second[level], strict=True):
            fused = fused + share * other + (1 - share) * one
    share = gaussian((np.abs(first[0][1]) < np.abs(second[0][1])).astype(float), 3, 1, "reflect")
    fused = fused + share * second[0][1] + (1 - share) * first[0][1]
    fused = fused + np.where(np.abs(first[0][0]) < np.abs(second[0][0]), second[0][0], first[0][0])
    return fused * 275


def plain_perception(image):
    gradient = ndimage.sobel(image, 0) ** 2 + ndimage.sobel(image, 1) ** 2
    gradient, image = gradient[1:-1, 1:-1], image[1:-1, 1:-1]
    seen = weight = 0
    for top in range(0, image.shape[0], 40):
        for left in range(0, image.shape[1], 40):
            part = np.s_[top : top + 40, left : left + 40]
            frequency = [np.fft.fftfreq(length) * 32 for length in image[part].shape]
            r = np.sqrt(frequency[0][:, None] ** 2 + frequency[1] ** 2)
            eye = 2.6 * (0.0192 + 0.114 * r) * np.exp(-((0.114 * r) ** 1.1))
            energy = np.sqrt((np.abs(np.fft.fft2(image[part]) * eye) ** 2).sum()) / image[part].size
            seen += energy * gradient[part].sum()
            weight += gradient[part].sum()
    return seen / weight


def lp(visible, infrared):
    """For sizes that four halvings divide."""
    return plain_pyramid(infrared, visible, 4)


def plain_pyramid(first, second, levels):
    if levels == 0:
        return (first + second) / 2
    small_1, small_2 = plain_blur(first)[::2, ::2], plain_blur(second)[::2, ::2]
    band_1, band_2 = first - plain_expand(small_1), second - plain_expand(small_2)
    larger = ndimage.maximum_filter(np.abs(band_1), 3) > ndimage.maximum_filter(np.abs(band_2), 3)
    most = ndimage.correlate(larger.astype(int), np.ones((3, 3), int), mode="mirror") > 4
    return plain_expand(plain_pyramid(small_1, small_2, levels - 1)) + np.where(most, band_1, band_2)


def plain_blur(image):
    taps = np.array([1, 4, 6, 4, 1]) / 16
    return ndimage.correlate1d(ndimage.correlate1d(image, taps, axis=0, mode="mirror"), taps, axis=1, mode="mirror")


def plain_expand(image):
    wide = np.zeros((2 * image.shape[0], 2 * image.shape[1]))
    wide[::2, ::2] = image
    return 4 * plain_blur(wide)


def sml(visible, infrared):
    first, second = visible / 255, infrared / 255
    sharp = []
    for image in (first, second):
        padded = np.pad(image, 1, mode="edge")
        across = 2 * image - padded[1:-1, :-2] - padded[1:-1, 2:]
        down = 2 * image - padded[:-2, 1:-1] - padded[2:, 1:-1]
        sharp.append(box(np.abs(across) + np.abs(down), 4))
    most = (box((sharp[0] > sharp[1] + 1e-12).astype(float), 8) > 0.5 + 1e-12).astype(float)
    weight = np.clip(guided((first + second) / 2, most, 6, 1e-4), 0, 1)
    return 255 * (weight * first + (1 - weight) * second)


def mertens(visible, infrared):
    """For sizes that four halvings divide, at the end of which there are fewer than 8 rows."""
    images = visible / 255, infrared / 255
    cross = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    weights = [
        (np.abs(ndimage.correlate(image, cross, mode="nearest")) + 1e-4) * np.exp(-((image - 0.5) ** 2) / 0.08)
        for image in images
    ]
    return 255 * plain_blend(*images, weights[0] / (weights[0] + weights[1]), 4)


def plain_blend(first, second, weight, levels):
    if levels == 0:
        return weight * first + (1 - weight) * second
    small = [plain_blur(image)[::2, ::2] for image in (first, second, weight)]
    band = weight * (first - plain_expand(small[0])) + (1 - weight) * (second - plain_expand(small[1]))
    return plain_expand(plain_blend(*small, levels - 1)) + band


PLAIN = {
    "adf": adf,
    "mgff": mgff,
    "vsm_wls": vsm_wls,
    "tif": tif,
    "gff": gff,
    "hmsd_gf": hmsd_gf,
    "lp": lp,
    "sml": sml,
    "mertens": mertens,
}
