"""duskfuse export: a fusing network as an ONNX file, for any size of image.

    duskfuse export --out aenet.onnx                        the AE-Netv2 that comes with the package
    duskfuse export --checkpoint RUN --out model.onnx

Inputs "first" (visible) and "second" (infrared), output "image": float32 (batch, 1, height, width), luma in [0, 1].
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from fusion import storage, weights
from fusion.errors import UserError
from fusion.realtime.export import export_onnx
from workflows.export.options import Args
from workflows.fuse.methods import load_network

MAX_DIFFERENCE = 1e-4  # to PyTorch, in luma of [0, 1]


def run(args: Args, command: list[str]) -> None:
    """Export a network, and write the file if it computes what PyTorch does."""
    if not args.out.endswith(".onnx"):
        raise UserError(f"--out {args.out}: give a file name that ends in .onnx.")
    network = load_network(str(weights.folder()) if args.checkpoint is None else args.checkpoint)
    model = network.model
    if network.restores:
        raise UserError(f"{args.checkpoint} restores and does not fuse. Give a checkpoint of stage 2.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            export_onnx(model, str(path))
            difference = max_difference(model, path)
        except ImportError as error:
            raise UserError(f"exporting needs {error.name}: pip install 'duskfuse[onnx]'.") from error
        if not difference <= MAX_DIFFERENCE:  # nor if it is not a number
            raise UserError(f"the exported network differs from PyTorch by {difference:.2g}: it was not written.")
        storage.write_bytes(args.out, path.read_bytes())
        print(f"{args.out}: {path.stat().st_size / 1e3:.0f} kB, differs from PyTorch by at most {difference:.1g}")


def max_difference(model: nn.Module, path: Path) -> float:
    """Return the largest difference between ONNX Runtime and PyTorch over images of several sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    generator = torch.Generator().manual_seed(0)
    differences = []
    for shape in ((1, 1, 48, 64), (2, 1, 37, 53), (1, 1, 96, 80)):
        images = [torch.rand(shape, generator=generator) for _ in names]
        with torch.inference_mode():
            expected = model(*images).image
        (exported,) = session.run(None, {name: image.numpy() for name, image in zip(names, images, strict=True)})
        differences.append((torch.from_numpy(exported) - expected).abs().max())
    return float(torch.stack(differences).max())  # this one keeps NaN
