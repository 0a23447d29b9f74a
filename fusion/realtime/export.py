"""A fusing network as an ONNX file, for batches and images of any size: inputs "first", "second", output "image".

Both inputs and the output are (batch, 1, height, width), float32. An AE-Netv2 goes out folded (`fusion.realtime.fold`).
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

from fusion import storage
from fusion.errors import UserError
from fusion.models.aenet import AENet
from fusion.realtime.fold import Folded


class Image(nn.Module):
    """A network that returns the fused image alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, first_B1HW: Tensor, second_B1HW: Tensor) -> Tensor:
        """(B, 1, H, W) twice -> (B, 1, H, W)."""
        image: Tensor = self.network(first_B1HW, second_B1HW).image
        return image


def export_onnx(model: nn.Module, where: str, size: tuple[int, int] = (40, 56), folded: bool = True) -> None:
    """Write the file, at a path or URI, of a network in evaluation mode that takes two images (B, 1, H, W).

    `size` is that of the images the graph is traced with; it holds for others. `folded`: an AENet is folded first.
    UserError when the packages for ONNX are missing, or when PyTorch cannot trace the network.
    """
    try:
        import onnxscript  # noqa: F401  what torch.onnx is built on; large, and needed here only
    except ImportError as error:
        raise UserError('ONNX files need the packages of an extra: pip install "duskfuse[onnx]"') from error

    network = Folded(model) if folded and isinstance(model, AENet) else copy.deepcopy(model)
    image = torch.zeros(2, 1, *size, device=next(network.parameters()).device)
    any_size = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            program = torch.onnx.export(
                Image(network).eval(),
                (image, image.clone()),
                dynamo=True,
                verbose=False,
                input_names=["first", "second"],
                output_names=["image"],
                dynamic_shapes=(any_size, any_size),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(
            f"{type(model).__name__} cannot be written as ONNX: torch.export cannot trace it. A network whose gates "
            "choose which of its parts run (TG-ECNet, MoE-Fusion) is no fixed graph."
        ) from error
    assert program is not None  # as `dynamo` is true
    storage.write_bytes(where, program.model_proto.SerializeToString())
