"""What the experts of a mixture do: how often each is chosen, and what each local expert of MoE-Fusion sees.

Shapes: N experts, H height, W width.
"""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import torch
from matplotlib.artist import Artist
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fusion.errors import UserError
from fusion.images.colour import luma, to_rgb
from fusion.models.moefusion import LocalExperts, MoEFusion
from fusion.report.sheets import side_by_side
from fusion.report.style import MUTED, PALETTE, add_legend, panel_grid, plot_settings, save_figure

COLUMNS = ("image", "gate", "expert", "weight")
BRIGHTEST = 99.5  # per cent: what is shown as white


def choice_table(gates: pd.DataFrame) -> pd.DataFrame:
    """Return a row per gate: gate, images, sets, most_chosen, entropy. `gates`: as in `gate_choices`.

    sets: how many different sets of experts the images chose. most_chosen: how many images chose the most frequent set.
    entropy: of the set, in bits, over the images; 0 where all chose alike, and at most log2(images). The choice of
    evaluation follows from the image, so this is also the mutual information of image and choice.
    """
    _check_gates(gates)
    rows = []
    for name, part in gates.groupby("gate", sort=False):
        chosen = part[part["weight"] > 0].groupby("image")["expert"].apply(frozenset)
        counts = chosen.value_counts()
        shares = counts / counts.sum()
        entropy = max(float(-(shares * np.log2(shares)).sum()), 0.0)
        rows.append((name, len(chosen), len(counts), int(counts.max()), entropy))
    return pd.DataFrame(rows, columns=["gate", "images", "sets", "most_chosen", "entropy"])


def choice_notes(gates: pd.DataFrame) -> list[str]:
    """Return a sentence per gate on whether its choice depends on the image. `gates`: as in `gate_choices`."""
    notes = []
    for row in choice_table(gates).itertuples(index=False):
        if row.sets == 1:
            choice = f"all {row.images} images chose the same experts."
        else:
            choice = (
                f"{row.images} images chose {row.sets} different sets of experts, {row.most_chosen} of them the same "
            )
            choice += f"one; {row.entropy:.2f} bits."
        notes.append(f"{row.gate} gate: {choice}")
    return notes


def _check_gates(gates: pd.DataFrame) -> None:
    """Raise UserError for a table without the columns or rows of gates."""
    absent = [name for name in COLUMNS if name not in gates.columns]
    if absent or gates.empty:
        what = f"has no column {', '.join(absent)}" if absent else "is empty"
        raise UserError(f"the table of gates {what}; it needs rows of {', '.join(COLUMNS)}.")


def gate_choices(gates: pd.DataFrame, *, format: str = "svg") -> bytes:
    """Draw a panel per gate: the share of images that chose each expert, and its mean weight over all images.

    `gates`: image, gate, expert (from 1), weight; an expert is chosen where its weight is not 0. A dashed line is what
    an even choice would give. Raises UserError for a table without these columns or rows.
    """
    _check_gates(gates)
    names = list(dict.fromkeys(gates["gate"]))
    keys: list[Artist] = [
        Patch(color=PALETTE[0], label="images that chose it"),
        Patch(color=PALETTE[4], label="mean weight"),
        Line2D([], [], color=MUTED, ls="--", lw=0.9, label="even choice"),
    ]
    with plot_settings():
        figure, axes, _ = panel_grid(len(names), keys, share_y=True)
        for axis, name in zip(axes, names, strict=True):
            part = gates[gates["gate"] == name]
            chosen = (part["weight"] > 0).groupby(part["expert"]).mean().sort_index()
            weight = part["weight"].groupby(part["expert"]).mean().sort_index()
            x = np.arange(len(chosen))
            axis.bar(x - 0.2, chosen, 0.38, color=PALETTE[0])
            axis.bar(x + 0.2, weight, 0.38, color=PALETTE[4])
            axis.axhline(chosen.sum() / len(chosen), color=MUTED, ls="--", lw=0.9)
            axis.set_xticks(x, [str(expert) for expert in chosen.index])
            axis.set_ylim(0, 1)
            axis.set_title(f"{name} ({part['image'].nunique()} images)")
            axis.set_xlabel("expert")
        add_legend(figure, keys)
        return save_figure(figure, format)


def expert_sheet(
    model: MoEFusion,
    visible: np.ndarray,
    infrared: np.ndarray,
    attention: torch.Tensor | None = None,
    width: int = 320,
) -> np.ndarray:
    """Draw the paper's Fig. 6 for one pair: attention, then every local expert's features on fore- and background.

    Images are uint8, H W 3 (or H W) and H W. Shown is how far features are from their mean over the image, on
    average over the channels, on one scale for all experts of a row; an expert that the gate did not choose is grey.
    Returns uint8 H W 3. Raises ValueError for a model without local experts.
    """
    device = next(model.parameters()).device
    first, second = (torch.from_numpy(luma(image))[None, None].to(device) for image in (visible, infrared))
    with torch.inference_mode():
        maps = model.local_maps(first, second, attention)
        gates = model(first, second, attention).gates
    rows = [[("visible", to_rgb(visible)), ("infrared", to_rgb(infrared)), *attention_cells(attention)]]
    titles = ["the pair" + ("" if attention is not None else " (no attention: all is half foreground)")]
    for name, features in maps.items():
        features_NCHW = features[0].float()
        energy_NHW = (features_NCHW - features_NCHW.mean((2, 3), keepdim=True)).abs().mean(1).cpu().numpy()
        top = max(float(np.percentile(energy_NHW, BRIGHTEST)), 1e-9)
        local: LocalExperts = getattr(model, name)
        visible_experts = len(local.experts) // 2
        cells = []
        for place, energy_HW in enumerate(energy_NHW):
            weight = float(gates[name][0, place])
            modality = "visible" if place < visible_experts else "infrared"
            chosen = f"weight {weight:.2f}" if weight else "not chosen"
            cells.append((f"{place + 1} ({modality}): {chosen}", heat(energy_HW / top, colour=weight > 0)))
        rows.append(cells)
        titles.append(f"{name}: features of the local experts")
    return side_by_side(rows, width, title=titles)


def attention_cells(attention_1xHW: torch.Tensor | None) -> list[tuple[str, np.ndarray]]:
    """Return (caption, uint8 H W 3) of one or two attention maps, (1, 1 or 2, H, W) in [0, 1]; [] for None."""
    if attention_1xHW is None:
        return []
    maps = attention_1xHW[0].float().cpu().numpy()
    names = ("attention, visible", "attention, infrared") if len(maps) == 2 else ("attention",)
    return [(name, heat(one_HW)) for name, one_HW in zip(names, maps, strict=True)]


def heat(values_HW: np.ndarray, colour: bool = True) -> np.ndarray:
    """Return values in [0, 1], (H, W), in false colours (viridis) or in grey: uint8 H W 3."""
    bytes_HW = np.rint(np.clip(values_HW, 0, 1) * 255).astype(np.uint8)
    if not colour:
        return to_rgb(bytes_HW)
    coloured: np.ndarray = cv2.cvtColor(cv2.applyColorMap(bytes_HW, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    return coloured
