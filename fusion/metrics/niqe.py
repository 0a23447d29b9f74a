"""NIQE, the natural image quality evaluator: how far an image's statistics are from those of clean photographs.

No source image enters, but a model of clean images does, and values under different models cannot be compared: print
`name_of_model()` beside them. The one that ships was fitted by `benchmarks/niqe_model.py` on small JPEG road scenes. It
tells noise and blur from clean, but it is narrow: it may rank fusion methods otherwise than the authors' model does,
and images of the scenes it was fitted on score about a tenth lower than unseen ones would. For numbers to put beside
published ones, load the authors' model (`load_pristine`, `with_model`).

B images, N blocks of an image, F = 36 features.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fusion import storage
from fusion.errors import UserError
from fusion.metrics.niqe_features import BLOCK, FEATURES, features
from fusion.metrics.triplet import Triplet

SHARP = 0.75  # blocks at most this sharp, relative to the image's sharpest, tell nothing about clean images
FORMAT = "duskfuse NIQE model 1"
NAMES = (("mu_pris_param", "cov_pris_param"), ("mu_prisparam", "cov_prisparam"))  # in .npz files


@dataclass(frozen=True, eq=False)
class Pristine:
    """What features clean images have: their mean and covariance over sharp blocks, float64, 36 and 36 x 36.

    `images` and `blocks`: how many it was fitted on, None if not known. ValueError unless the arrays are finite, of
    those shapes, and the covariance symmetric.
    """

    mu_F: Tensor
    cov_FF: Tensor
    name: str
    images: int | None = None
    blocks: int | None = None

    def __post_init__(self) -> None:
        if self.mu_F.shape != (FEATURES,) or self.cov_FF.shape != (FEATURES, FEATURES):
            shapes = f"{tuple(self.mu_F.shape)} and {tuple(self.cov_FF.shape)}"
            raise ValueError(f"mean and covariance must have shapes (36,) and (36, 36), not {shapes}")
        if not (self.mu_F.isfinite().all() and self.cov_FF.isfinite().all()):
            raise ValueError("mean and covariance must be finite")
        if not torch.allclose(self.cov_FF, self.cov_FF.T, rtol=1e-6, atol=1e-9) or (self.cov_FF.diagonal() <= 0).any():
            raise ValueError("the covariance must be symmetric with a positive diagonal")

    def __str__(self) -> str:
        known = self.images is not None and self.blocks is not None
        return f"{self.name} ({self.images} images, {self.blocks} blocks)" if known else self.name


def compute(t: Triplet) -> Tensor:
    """NIQE = sqrt((m - m0)^T ((S + S0) / 2)^+ (m - m0)),  ^+ the pseudo-inverse.

    m and S are mean and covariance (ddof 1) of 36 features over the fused image's blocks of 96 x 96 pixels, m0 and S0
    those of clean images, here of the model that ships with the package. Features: fits of asymmetric generalised
    Gaussians to (I - local mean) / (local deviation + 1) and to its products with four neighbours, at full and half
    size (`niqe_features`). A fit that a block does not allow is left out of the mean, and its block of the covariance.

    Range: 0 up, lower is better; about 3 to 6 for photographs. It judges naturalness, not fusion. NaN where fewer than
    two blocks have contrast, so for images under 96 pixels on a side or under 192 on the longer one. Source: Mittal,
    Soundararajan and Bovik, "Making a 'completely blind' image quality analyzer", IEEE Signal Processing Letters 20,
    2013.
    """
    return _distance(shipped(), t)


def with_model(pristine: Pristine) -> Callable[[Triplet], Tensor]:
    """`compute` with another model of clean images. The function can be pickled, so that tasks can carry it."""
    return partial(_distance, pristine)


def name_of_model(pristine: Pristine | None = None) -> str:
    """Return what to print beside values: the model's name and what it was fitted on. None: the one that ships."""
    return str(pristine or shipped())


@cache
def shipped() -> Pristine:
    """Return the model that comes with the package."""
    return _from_json(resources.files("fusion.metrics").joinpath("niqe_pristine.json").read_bytes())


def _features(t: Triplet) -> Tensor:
    return features(t.fused)[0]


def _distance(pristine: Pristine, t: Triplet) -> Tensor:
    if (t.height // BLOCK) * (t.width // BLOCK) < 2:
        return t.nan()
    feature_BNF = t.get(_features)
    feature_BNF = feature_BNF.where(feature_BNF.isfinite(), torch.nan)
    whole_BN1 = feature_BNF.isfinite().all(dim=-1, keepdim=True)
    count_B11 = whole_BN1.sum(dim=1, keepdim=True)
    defined_B = count_B11[:, 0, 0] >= 2
    kept_BNF = feature_BNF.where(whole_BN1, 0.0)
    centred_BNF = (kept_BNF - kept_BNF.sum(dim=1, keepdim=True) / count_B11.clamp(min=1)) * whole_BN1
    cov_BFF = centred_BNF.mT @ centred_BNF / (count_B11 - 1).clamp(min=1)
    apart_BF = (feature_BNF.nanmean(dim=1) - pristine.mu_F.to(feature_BNF)).where(defined_B[:, None], 0.0)
    inverse_BFF = torch.linalg.pinv((cov_BFF + pristine.cov_FF.to(feature_BNF)) / 2, hermitian=True)
    value_B = torch.einsum("bf,bfg,bg->b", apart_BF, inverse_BFF, apart_BF).sqrt()
    return value_B.where(defined_B, torch.nan)


def fit_pristine(images: Iterable[np.ndarray], name: str) -> Pristine:
    """Return the model of clean images: grey H W, uint8 or float on the 0..255 scale, sizes may differ.

    Of each image the blocks count whose sharpness is above 0.75 of that of its sharpest block. UserError for an image
    that holds no block, or if fewer than 37 blocks remain, too few for a covariance of 36 features.
    """
    chosen, number = [], 0
    for number, image in enumerate(images, start=1):
        if image.ndim != 2 or min(image.shape) < BLOCK:
            shape = "x".join(map(str, image.shape))
            raise UserError(f"image {number} is {shape}: a NIQE model needs grey images of {BLOCK} pixels both ways.")
        feature_1NF, sharpness_1N = features(torch.from_numpy(image.astype(np.float64))[None, None])
        sharp_N = sharpness_1N[0] > SHARP * sharpness_1N.max()
        chosen.append(feature_1NF[0][sharp_N & feature_1NF[0].isfinite().all(dim=-1)])
    blocks = sum(map(len, chosen))
    if blocks <= FEATURES:
        raise UserError(f"only {blocks} sharp blocks in {number} images: a NIQE model needs {FEATURES + 1}, add more.")
    sample_NF = torch.cat(chosen)
    return Pristine(sample_NF.mean(dim=0), sample_NF.T.cov(), name, number, blocks)


def save_pristine(path: str | Path, pristine: Pristine) -> None:
    """Write a model as JSON, every digit kept. UserError if the place cannot be written."""
    head = {key: getattr(pristine, key) for key in ("name", "images", "blocks")}
    lines = [f'"{key}": {json.dumps(value)}' for key, value in {"format": FORMAT, **head}.items()]
    lines.append(f'"mu": {json.dumps(pristine.mu_F.tolist())}')
    lines.append('"cov": [\n' + ",\n".join(json.dumps(row) for row in pristine.cov_FF.tolist()) + "\n]")
    storage.write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def load_pristine(path: str | Path) -> Pristine:
    """Return a model from a file or URI.

    It is JSON as `save_pristine` writes it, or .npz with mu_pris_param and cov_pris_param (the form in which the
    authors' model is passed around), then named after the file. UserError for anything else.
    """
    try:
        data = storage.read_bytes(path)
        return _from_npz(data, Path(str(path)).name) if data[:2] == b"PK" else _from_json(data)
    except FileNotFoundError as error:
        raise UserError(f"no NIQE model {path}: give a .json or .npz file.") from error
    except (OSError, ValueError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        form = "JSON written by save_pristine, or .npz with mu_pris_param and cov_pris_param"
        raise UserError(f"{path} is not a NIQE model ({reason}): give {form}.") from error


def _from_npz(data: bytes, name: str) -> Pristine:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        pair = next((pair for pair in NAMES if set(pair) <= set(file.files)), None)
        if pair is None:
            raise ValueError(f"no {' and '.join(NAMES[0])} in it")
        mu, cov = (torch.from_numpy(file[key].astype(np.float64)) for key in pair)
    return Pristine(mu.flatten(), cov, name)


def _from_json(data: bytes) -> Pristine:
    try:
        content = json.loads(data)
    except ValueError as error:  # its own message would quote a binary file
        raise ValueError("neither JSON nor .npz") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f'no "format": "{FORMAT}"')
    missing = {"name", "images", "blocks", "mu", "cov"} - content.keys()
    if missing:
        raise ValueError(f"no {', '.join(sorted(missing))} in it")
    mu, cov = (torch.tensor(content[key], dtype=torch.float64) for key in ("mu", "cov"))
    return Pristine(mu, cov, content["name"], content["images"], content["blocks"])
