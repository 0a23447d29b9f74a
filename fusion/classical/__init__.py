"""The table of classical fusion algorithms. A new one is a file here and a line below.

Each takes the visible luma and the infrared image, float32 (H, W) in [0, 1] of at least 16 x 16 pixels, and returns
the fused luma likewise; float64 images give a float64 result. All compute in float64, are deterministic on any number
of threads, and leave their inputs alone.

    from fusion import classical, inference
    image = inference.fuse(classical.CLASSICAL["adf"].fuse, visible, infrared)     the visible image's colour is kept
    image = classical.fuse_colour(classical.CLASSICAL["adf"], visible, infrared)     every channel fused, as published
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fusion.classical import adf, average, gff, hmsd_gf, ifevip, lp, maximum, mertens, mgff, sml, tif, vsm_wls
from fusion.images.colour import quantise

# (visible luma, infrared) -> fused luma, float H W in [0, 1]
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Algorithm:
    """colour: for algorithms whose channels share something, float (H, W, 3) twice -> float (H, W, 3)."""

    label: str
    fuse: Method
    source: str
    colour: Method | None = None


CLASSICAL: dict[str, Algorithm] = {
    "average": Algorithm("Average", average.fuse, "the mean of the two images: the floor any method must beat"),
    "maximum": Algorithm("Maximum", maximum.fuse, "the brighter of the two images, pixel by pixel"),
    "adf": Algorithm("ADF", adf.fuse, "Bavirisetti and Dhuli 2016, IEEE Sensors J. 16(1)"),
    "mgff": Algorithm("MGFF", mgff.fuse, "Bavirisetti et al. 2019, Circuits Syst. Signal Process. 38"),
    "vsm_wls": Algorithm("VSM-WLS", vsm_wls.fuse, "Ma et al. 2017, Infrared Phys. Technol. 82"),
    "tif": Algorithm("TIF", tif.fuse, "Bavirisetti and Dhuli 2016, Infrared Phys. Technol. 76"),
    "gff": Algorithm("GFF", gff.fuse, "Li, Kang and Hu 2013, IEEE Trans. Image Process. 22(7)", gff.fuse_colour),
    "hmsd_gf": Algorithm("HMSD-GF", hmsd_gf.fuse, "Zhou et al. 2016, Appl. Opt. 55(23)"),
    "ifevip": Algorithm("IFEVIP", ifevip.fuse, "Zhang et al. 2017, Infrared Phys. Technol. 83", ifevip.fuse_colour),
    "lp": Algorithm("LP", lp.fuse, "Burt and Adelson 1983, IEEE Trans. Commun. 31(4)"),
    "sml": Algorithm(
        "SML", sml.fuse, "Huang and Jing 2007, Pattern Recognit. Lett. 28(4): of two foci", sml.fuse_colour
    ),
    "mertens": Algorithm(
        "Mertens",
        mertens.fuse,
        "Mertens et al. 2009, Comput. Graph. Forum 28(1): of two exposures",
        mertens.fuse_colour,
    ),
}


def fuse_colour(algorithm: Algorithm, visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Every channel of the visible image fused with the infrared image: what published colour results show.

    visible uint8 (H, W, 3), infrared uint8 (H, W) or (H, W, 3) -> uint8 (H, W, 3). ValueError for other shapes.
    Colours fade towards the infrared image's grey; `fusion.inference.fuse` keeps them.
    """
    if visible.dtype != np.uint8 or infrared.dtype != np.uint8 or visible.shape[2:] != (3,):
        found = f"{visible.dtype} {visible.shape} and {infrared.dtype} {infrared.shape}"
        raise ValueError(f"visible must be uint8 H W 3 and infrared uint8 H W (or H W 3), not {found}")
    if infrared.shape not in (visible.shape, visible.shape[:2]):
        raise ValueError(f"visible and infrared differ in size: {visible.shape} and {infrared.shape}")
    first = visible / 255
    second = np.broadcast_to((infrared if infrared.ndim == 3 else infrared[..., None]) / 255, first.shape)
    if algorithm.colour is not None:
        return quantise(algorithm.colour(first, second))
    channels = [algorithm.fuse(*(np.ascontiguousarray(image[..., c]) for image in (first, second))) for c in range(3)]
    return quantise(np.stack(channels, axis=-1))
