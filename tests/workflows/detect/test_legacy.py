"""Folders of `duskfuse detect` that revision 103a0ad wrote are shown in reports."""

from __future__ import annotations

import json

import pytest

from detection.average_precision import match
from detection.boxes import Detections, Truth
from detection.protocol import compare
from detection.tables import scores_table
from workflows.legacy import upgrade_detection_column
from workflows.report.sections import detection_section

TRUTHS = [Truth([[0, 0, 9, 9], [20, 0, 29, 9]], [0, 0], 40, 40)]
FOUND = [Detections([[0, 0, 9, 9]], [0.9], [0])]
COLUMNS = ("AP50 person", "mAP50", "mAP50-95")
ESTIMATES = ",".join(f"{name},{name} low,{name} high" for name in COLUMNS)
TABLE = f"method,degradation,level,images,{ESTIMATES},boxes,detections,boxes person"
ROWS = (
    "visible,all,all,3,0.5,0.4,0.6,0.5,0.4,0.6,0.25,0.2,0.3,7,9,7",
    "fused,all,all,3,0.7,0.6,0.8,0.7,0.6,0.8,,,,7,9,7",
)
DIFFERENCES = """degradation,level,measure,best,other,images,difference,low,high,above zero,p
all,all,mAP50,fused,visible,3,0.2,0.1,0.3,1.0,0.002
all,all,mAP50-95,fused,visible,3,0.1,0.05,0.15,1.0,0.002
"""


def test_an_old_folder_is_shown(tmp_path):
    (tmp_path / "table.csv").write_text("\n".join([TABLE, *ROWS]) + "\n")
    (tmp_path / "differences.csv").write_text(DIFFERENCES)
    result = {"stamp": {}, "detector": "yolo", "train_on": "visible+infrared", "resamples": 100}
    (tmp_path / "detect.json").write_text(json.dumps(result))
    section = detection_section(str(tmp_path))
    ((_, table),) = section.tables
    assert [column.label for column in table.columns] == ["AP50 person", "mAP50", "mAP50-95"]
    visible, fused = table.rows
    assert [cell.text for cell in visible.cells] == ["0.5000", "0.5000", "0.2500"]
    assert fused.cells[0].rank == 1 and "0.6000 to 0.8000, 3 images, 7 boxes" in fused.cells[0].detail
    assert section.notes[0].startswith("fused less visible: +20.0 points of mAP50 (95 % interval +10.0 to +30.0")


def test_a_folder_of_today_has_the_curves_of_voc_too(tmp_path):
    found = compare({name: match(TRUTHS, FOUND, ("person",)) for name in ("visible", "fused")}, 20)
    table = scores_table(found.scores)
    table.insert(1, "degradation", "all")
    table.insert(2, "level", "all")
    (tmp_path / "table.csv").write_text(table.to_csv(index=False))
    (tmp_path / "differences.csv").write_text(DIFFERENCES)
    result = {"provenance": {}, "detector": "yolo", "train_on": None, "resamples": 20}
    (tmp_path / "detect.json").write_text(json.dumps(result))
    (_, coco), (caption, voc) = detection_section(str(tmp_path)).tables
    assert [cell.text for cell in coco.rows[0].cells] == ["0.5050", "0.5050", "0.5050"]  # 51 of 101
    assert "PASCAL VOC" in caption
    assert [cell.text for cell in voc.rows[0].cells] == ["0.5455", "0.5455", "0.5000", "0.5000"]  # 6 of 11, 1 of 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("AP50 traffic light low", "ap50_traffic light_low"),
        ("mAP50-95 high", "map50_95_high"),
        ("boxes", "boxes"),
        ("boxes car", "boxes_car"),
        ("above zero", "above_zero"),
        ("map50_low", "map50_low"),
        ("ap50_car", "ap50_car"),
    ],
)
def test_columns(old, new):
    assert upgrade_detection_column(old) == new
