"""Pictures of experts and of the architecture study."""

import numpy as np
import pandas as pd
import pytest
import torch

from fusion import scenes
from fusion.classical import CLASSICAL
from fusion.errors import UserError
from fusion.inference import fuse_with_gates
from fusion.models.configs import MoEFusionConfig
from fusion.models.moefusion import MoEFusion
from fusion.report import experts, variants
from fusion.report.experts import expert_sheet, gate_choices, heat
from fusion.report.sheets import side_by_side
from fusion.report.style import PALETTE
from fusion.report.variants import bubbles, costs_table, quality_table
from tests.helpers.figures import bars, figure_of

TINY = MoEFusionConfig(experts=3, top_k=2, width=4, decoder_widths=(4, 4, 4), grid=(2, 3))


def model(config=TINY) -> MoEFusion:
    torch.manual_seed(0)
    network = MoEFusion(config).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("gate.choice"):  # they start at zero
            torch.nn.init.normal_(parameter)
    return network


@pytest.fixture(scope="module")
def scene():
    return scenes.render(3, 0, 64, 80)


def gates() -> pd.DataFrame:
    rows = []
    for image in range(4):
        rows += [(f"i{image}", "global", expert, weight) for expert, weight in enumerate((0.7, 0.3, 0.0), 1)]
        chosen = image % 2
        rows += [(f"i{image}", "foreground", expert, float(expert - 1 == chosen)) for expert in (1, 2, 3)]
    return pd.DataFrame(rows, columns=["image", "gate", "expert", "weight"])


def test_gate_choices_are_counted():
    svg = gate_choices(gates()).decode()
    assert "global (4 images)" in svg and "foreground (4 images)" in svg
    assert gate_choices(gates()) == svg.encode()  # the same bytes again
    assert gate_choices(gates(), format="png").startswith(b"\x89PNG")


def test_what_images_choose_is_counted_in_sets():
    """All four choose 1 and 2 of the global experts; on the foreground two choose 1 and two 2."""
    table = experts.choice_table(gates()).set_index("gate")
    assert list(table.columns) == ["images", "sets", "most_chosen", "entropy"]
    assert table.loc["global"].tolist() == [4, 1, 4, 0.0]
    assert table.loc["foreground"].tolist() == [4, 2, 2, 1.0]
    assert experts.choice_notes(gates()) == [
        "global gate: all 4 images chose the same experts.",
        "foreground gate: 4 images chose 2 different sets of experts, 2 of them the same one; 1.00 bits.",
    ]
    with pytest.raises(UserError, match="the table of gates is empty"):
        experts.choice_table(gates()[:0])


def test_bars_have_the_heights_of_the_shares():
    """Two choose expert 1 and two expert 2 on the foreground; all choose 1 and 2 of the global ones."""
    figure = figure_of(experts, lambda: gate_choices(gates()))
    heights = [bar.get_height() for bar in bars(figure, PALETTE[0])]
    np.testing.assert_allclose(heights, [1, 1, 0, 0.5, 0.5, 0])


@pytest.mark.parametrize("bad", [pd.DataFrame(), gates().iloc[:0], gates().drop(columns="weight")])
def test_no_gates_are_told(bad):
    with pytest.raises(UserError, match="table of gates"):
        gate_choices(bad)


def test_fusing_gives_the_gates(scene):
    image, found = fuse_with_gates(model(), scene.visible, scene.infrared)
    assert image.shape == (64, 80, 3) and set(found) == {"foreground", "background", "global"}
    for weights in found.values():
        assert len(weights) == 3 and sum(weights) == pytest.approx(1, abs=1e-5) and sum(w > 0 for w in weights) == 2
    assert fuse_with_gates(CLASSICAL["average"].fuse, scene.visible, scene.infrared)[1] == {}


def test_the_sheet_shows_every_expert(scene):
    maps = torch.rand(1, 2, 16, 20)
    sheet = expert_sheet(model(), scene.visible, scene.infrared, maps, width=100)
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 4 * 108 + 8  # pair and two maps are the longest row
    alone = expert_sheet(model(), scene.visible, scene.infrared, width=100)
    assert alone.shape[1] == 3 * 108 + 8
    assert (expert_sheet(model(), scene.visible, scene.infrared, maps, width=100) == sheet).all()
    with pytest.raises(ValueError, match="no local experts"):
        expert_sheet(model(MoEFusionConfig(width=4, grid=(2, 3), ablation="no_mole")), scene.visible, scene.infrared)


def test_heat_is_dark_to_bright():
    ramp = np.linspace(0, 1, 50)[None]
    coloured, plain = heat(ramp)[0].astype(int), heat(ramp, colour=False)[0]
    luma = coloured @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(luma) > 0).all()
    assert (plain[:, 0] == np.rint(ramp[0] * 255)).all() and (plain == plain[:, :1]).all()


def test_sheets_have_captions_above():
    red = np.full((40, 60, 3), (250, 0, 0), np.uint8)
    sheet = side_by_side([[("one", red), ("two", red)]], 60, 4)
    assert (sheet == (250, 0, 0)).all(-1).sum() >= 2 * 40 * 60 * 0.98


def study() -> pd.DataFrame:
    rows = {"block": ["gcb", "cnn"], "e2": [0.8, 0.9], "e2_sd": [0.01, np.nan], "ms": [20, 60], "size_mb": [0.06, 0.49]}
    return pd.DataFrame(rows)


def test_bubbles():
    svg = bubbles(study()).decode()
    assert "gcb (0.06 MB)" in svg and "cnn (0.49 MB)" in svg
    assert bubbles(study()).decode() == svg
    with pytest.raises(UserError, match="e2_sd"):
        bubbles(study().drop(columns="e2_sd"))


def test_tables_of_a_study():
    costs = pd.DataFrame(
        [{"network": "gcb", "parameters": 5378, "parameters_x_pixels": 860_480_000, "multiply_adds": 829_440_000}]
    )
    table = costs_table(costs)
    assert (table.head, table.counted) == ("Network", "Parameters")
    assert (table.rows[0].method, table.rows[0].images) == ("gcb", "5,378")
    assert [cell.text for cell in table.rows[0].cells] == ["860,480,000", "829,440,000"]
    quality = quality_table(study().assign(seeds=[2, 1]))
    assert [row.images for row in quality.rows] == ["2", "1"]
    assert [cell.text for cell in quality.rows[0].cells] == ["0.800", "0.010", "20.000", "0.060"]


def test_labels_of_bubbles_hide_nothing():
    """Ten networks close together: no label lies on another one, on a bubble or outside of the axes."""
    rng = np.random.default_rng(1)
    rows = [
        {"block": f"block_{i}", "e2": 1 + rng.normal(0, 0.01), "e2_sd": 0.004, "ms": 300 + rng.normal(0, 30)}
        for i in range(10)
    ]
    table = pd.DataFrame(rows).assign(size_mb=rng.uniform(0.02, 0.9, 10))
    figure = figure_of(variants, lambda: bubbles(table))
    (axis,) = figure.axes
    boxes = [text.get_window_extent() for text in axis.texts]
    assert [text.get_text().split()[0] for text in axis.texts] == [row["block"] for row in rows]
    inside, (dots,) = axis.get_window_extent(), axis.collections[-1:]
    points = axis.transData.transform(dots.get_offsets())
    for i, box in enumerate(boxes):
        assert box.count_overlaps(boxes[:i]) == 0
        assert inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
        for (x, y), area in zip(points, dots.get_sizes(), strict=True):
            away = np.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))
            assert away > np.sqrt(area / np.pi)
