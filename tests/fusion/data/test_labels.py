"""YOLO and VOC labels: pixels of the boxes, what is clipped, dropped and refused."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.data.labels import BadLabels, read_names, read_voc, read_yolo

NAMES = ("person", "bicycle", "car")


def voc(*objects: str, size: str = "<size><width>100</width><height>80</height></size>") -> str:
    return f"<annotation><filename>a.jpg</filename>{size}{''.join(objects)}</annotation>"


def voc_object(name: str, box: tuple[float | str, ...], extra: str = "") -> str:
    inner = "".join(f"<{tag}>{v}</{tag}>" for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{extra}<bndbox>{inner}</bndbox></object>"


def test_yolo_boxes_in_pixels():
    labels = read_yolo("2 0.5 0.5 0.2 0.5\n\n0 0.25 0.125 0.1 0.05\r\n", NAMES, height=80, width=100)
    np.testing.assert_allclose(labels.boxes, [[40, 20, 60, 60], [20, 8, 30, 12]], atol=1e-5)
    assert labels.boxes.dtype == np.float32
    assert labels.classes == ("car", "person")
    assert (labels.clipped, labels.dropped) == (0, 0)


def test_an_empty_yolo_file_is_an_image_without_boxes():
    for text in ("", "\n \n"):
        labels = read_yolo(text, NAMES, 80, 100)
        assert labels.boxes.shape == (0, 4)
        assert labels.boxes.dtype == np.float32
        assert labels.classes == ()


def test_yolo_without_names():
    assert read_yolo("7 0.5 0.5 0.2 0.2\n0.0 0.5 0.5 0.2 0.2", (), 80, 100).classes == ("class7", "class0")


def test_yolo_boxes_are_clipped_and_dropped_and_counted():
    text = "0 0.0 0.5 0.2 0.5\n1 0.5 0.5 0.005 0.5\n2 1.3 0.5 0.2 0.2\n0 0.5 0.5 1 1\n0 0.5 0.5 0.01 0.0125\n"
    labels = read_yolo(text, NAMES, 80, 100)
    np.testing.assert_allclose(labels.boxes, [[0, 20, 10, 60], [0, 0, 100, 80], [49.5, 39.5, 50.5, 40.5]], atol=1e-5)
    assert labels.classes == ("person", "person", "person")
    assert (labels.clipped, labels.dropped) == (1, 2)


def test_rounding_of_six_decimals_is_not_counted_as_clipped():
    labels = read_yolo("0 0.968751 0.5 0.0625 1.000001", NAMES, 1024, 1280)
    assert labels.clipped == 0
    assert labels.boxes[0, 2] == 1280


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", "line 3: 4 columns"),
        ("0 0.5 0.5 0.2 0.2 0.9", "line 3: 6 columns"),
        ("person 0.5 0.5 0.2 0.2", "line 3: 'person' is not a number"),
        ("0 0.5 0.5 wide 0.2", "line 3: 'wide' is not a number"),
        ("nan 0.5 0.5 0.2 0.2", "line 3: class id nan"),
        ("1e9 0.5 0.5 0.2 0.2", "line 3: class id 1e9"),
        ("7 0.5 0.5 0.2 0.2", "line 3: class id 7 but the class list has 3 names"),
        ("-1 0.5 0.5 0.2 0.2", "line 3: class id -1"),
        ("1.5 0.5 0.5 0.2 0.2", "line 3: class id 1.5"),
    ],
)
def test_bad_yolo_lines_are_named(line, message):
    with pytest.raises(BadLabels, match=message):
        read_yolo(f"0 0.5 0.5 0.1 0.1\n\n{line}\n", NAMES, 80, 100)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "line",
    [
        *("0 0.5 nan 0.2 0.2", "0 nan nan nan nan", "0 0.5 0.5 inf 0.2", "0 -inf 0.5 0.2 inf", "0 0.5 0.5 0.2 nan"),
        *("0 0.5 0.5 -0.2 0.2", "0 0.5 0.5 0.2 -1e-9", "0 0.5 0.5 0 0", "0 3.5 0.5 0.2 0.2", "0 1e308 1e308 1e308 1"),
    ],
)
def test_yolo_boxes_that_are_none_are_dropped_and_counted(line):
    labels = read_yolo(f"2 0.5 0.5 0.2 0.5\n{line}\n", NAMES, 80, 100)
    np.testing.assert_allclose(labels.boxes, [[40, 20, 60, 60]], atol=1e-5)
    assert (labels.classes, labels.clipped, labels.dropped) == (("car",), 0, 1)


def test_a_yolo_file_in_pixels_is_refused_whole():
    with pytest.raises(BadLabels, match="line 1: 50 40 20 20 is not relative"):
        read_yolo("0 50 40 20 20\n1 10 10 8 8\n", NAMES, 80, 100)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("box", [(1, 1, "nan", 5), ("inf", 1, 5, 5), (9, 1, 5, 5), (1, 9, 5, 5), ("-inf", 1, 1, 1)])
def test_voc_boxes_that_are_none_are_dropped_and_counted(box):
    labels = read_voc(voc(voc_object("bus", box), voc_object("car", (11, 21, 30, 40))), 80, 100)
    np.testing.assert_array_equal(labels.boxes, [[10, 20, 30, 40]])
    assert (labels.classes, labels.clipped, labels.dropped) == (("car",), 0, 1)
    corners = "".join(f"<{tag}>{v}</{tag}>" for tag, v in zip(("x1", "x2", "x3"), (1, "nan", 9), strict=True))
    corners += corners.replace("x", "y")
    labels = read_voc(voc(f"<object><name>bus</name><polygon>{corners}</polygon></object>"), 80, 100)
    assert (len(labels.boxes), labels.dropped) == (0, 1)


def test_voc_counts_pixels_from_1():
    labels = read_voc(voc(voc_object("car", (1, 1, 100, 80)), voc_object("person", (11, 21, 30, 40))), 80, 100)
    np.testing.assert_array_equal(labels.boxes, [[0, 0, 100, 80], [10, 20, 30, 40]])
    assert labels.classes == ("car", "person")
    assert labels.clipped == 0


def test_voc_zero_stays_zero_and_is_not_clipped():
    labels = read_voc(voc(voc_object("car", (0, 0, 50, 60))), 80, 100)
    np.testing.assert_array_equal(labels.boxes, [[0, 0, 50, 60]])
    assert labels.clipped == 0


def test_voc_keeps_difficult_objects_and_ignores_parts():
    part = "<part><name>head</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    text = voc(voc_object("person", (11, 11, 20, 30), "<difficult>1</difficult><truncated>1</truncated>" + part))
    labels = read_voc(text, 80, 100)
    np.testing.assert_array_equal(labels.boxes, [[10, 10, 20, 30]])


def test_voc_clips_and_drops():
    text = voc(voc_object("car", (91, 71, 140, 90)), voc_object("bus", (105, 10, 130, 20)))
    labels = read_voc(text, 80, 100)
    np.testing.assert_array_equal(labels.boxes, [[90, 70, 100, 80]])
    assert (labels.classes, labels.clipped, labels.dropped) == (("car",), 1, 1)


def test_polygons_become_boxes_and_points_are_dropped():
    polygon = (
        "<polygon><x1>54</x1><y1>39</y1><x2>64.5</x2><y2>33</y2><x3>66</x3><y3>69</y3><x4>58</x4><y4>66</y4></polygon>"
    )
    point = "<object><name>car</name><point><x>4</x><y>5</y></point></object>"
    labels = read_voc(voc(f"<object><name>feright car</name>{polygon}</object>", point), 80, 100)
    np.testing.assert_array_equal(labels.boxes, [[54, 33, 66, 69]])
    assert labels.classes == ("feright car",)
    assert labels.dropped == 1


def test_voc_without_objects_or_size():
    assert read_voc(voc(), 80, 100).boxes.shape == (0, 4)
    assert read_voc(voc(voc_object("car", (1, 1, 5, 5)), size=""), 80, 100).classes == ("car",)
    assert read_voc('<?xml version="1.0" encoding="gb2312"?>' + voc(), 100, 80).classes == ()  # exchanged size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "not XML"),
        (voc()[:-5], "not XML"),
        ("<html></html>", "not a VOC file"),
        ('<!DOCTYPE a [<!ENTITY x "y">]>' + voc(), "entity"),
        (voc("<object><bndbox/></object>"), "object 1: no class name"),
        (voc(voc_object("car", (1, 1, 5, 5)), "<object><name>car</name></object>"), "object 2: neither"),
        (voc(voc_object("car", (1, "x", 5, 5))), "object 1: ymin 'x' is not a number"),
        (voc(voc_object("c" * 201, (1, 1, 5, 5))), "object 1: a class name of more than 200"),
        (voc("<object><name>a</name><polygon><x1>1</x1><y1>2</y1></polygon></object>"), "object 1: polygon of 1 x"),
        (voc(size="<size><width>640</width><height>512</height></size>"), "an image of 640x512, not 100x80"),
    ],
)
def test_bad_voc_files(text, message):
    with pytest.raises(BadLabels, match=message):
        read_voc(text, 80, 100)


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("person\nbicycle\ncar\n\n", "classes.txt"),
        ("person\r\nbicycle \r\ncar", "obj.names"),
        ("path: x\nnames: [person, bicycle, 'car']\n", "data.yaml"),
        ("names:\n- person\n- bicycle\n- car\nnc: 3\n", "data.yaml"),
        ("names:\n  0: person\n  2: car\n  1: bicycle\n", "data.yml"),
    ],
)
def test_class_lists(text, file):
    assert read_names(text, file) == NAMES


def test_class_lists_that_say_nothing_or_cannot_be_read():
    assert read_names("", "classes.txt") == ()
    assert read_names("train: images\n", "data.yaml") == ()
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\n"  # as text it doubles with each line
    for text in ("names: {1: a, 2: b}", "names: 3", "names: [a", "names: " + "[" * 1000, "names: [2024-99-99]", bomb):
        with pytest.raises(BadLabels):
            read_names(text, "data.yaml")


# warnings


@pytest.mark.filterwarnings("error")
def test_doubts_of_a_yolo_file_by_line():
    text = "\n".join(
        [
            "0 0.5 0.5 0.2 0.2",  # sound
            "0 nan 0.5 0.2 0.2",
            "",
            "1 0.5 0.5 0.2 -0.1",
            "2 1.3 0.5 0.2 0.2",  # outside
            "2 0.99 0.5 0.2 0.2",  # 11 of 20 pixels inside
            "2 1.01 0.5 0.2 0.2",  # 9 of 20
            "0 0.5 0.5 0.004 0.5",  # 0.4 pixels
            "0 40 0.5 0.2 0.2",
            "0 0.0 0.5 0.2 0.2",  # just half
        ]
    )
    labels = read_yolo(text, NAMES, height=80, width=100)
    gone, most = "no box of a pixel or more in the image: dropped", "most of the box lies outside the image"
    assert labels.warnings == (
        *(f"line {number}: {gone}" for number in (2, 4, 5)),
        f"line 7: {most}",
        *(f"line {number}: {gone}" for number in (8, 9)),
    )
    assert (labels.dropped, labels.clipped, len(labels.boxes)) == (5, 3, 4)


@pytest.mark.filterwarnings("error")
def test_doubts_of_a_voc_file_by_object():
    point = "<object><name>car</name><point><x>4</x><y>5</y></point></object>"
    corners = "<x1>90</x1><y1>10</y1><x2>150</x2><y2>10</y2><x3>120</x3><y3>30</y3>"
    text = voc(
        voc_object("car", (11, 11, 30, 30)),
        point,
        voc_object("bus", (1, "nan", 5, 5)),
        voc_object("car", (91, 71, 140, 90)),
        f"<object><name>car</name><polygon>{corners}</polygon></object>",
        voc_object("car", (9, 1, 5, 5)),
        voc_object("car", (-100, -100, 5, 5)),
        point,
    )
    labels = read_voc(text, 80, 100)
    gone, most = "no box of a pixel or more in the image: dropped", "most of the box lies outside the image"
    assert sorted(labels.warnings) == [
        "object 2: a point, no box: dropped",
        f"object 3: {gone}",
        f"object 4: {most}",
        f"object 5: {most}",
        f"object 6: {gone}",
        f"object 7: {most}",
        "object 8: a point, no box: dropped",
    ]
    assert (labels.dropped, labels.clipped, len(labels.boxes)) == (4, 3, 4)


def test_sound_labels_leave_no_warnings():
    assert read_yolo("2 0.5 0.5 0.2 0.5\n0 0.05 0.5 0.1 1\n", NAMES, 80, 100).warnings == ()
    assert read_yolo("", NAMES, 80, 100).warnings == ()
    assert read_voc(voc(voc_object("car", (1, 1, 100, 80)), voc_object("car", (0, 0, 9, 9))), 80, 100).warnings == ()
    assert read_voc(voc(), 80, 100).warnings == ()
    rounded = read_yolo("0 0.968751 0.5 0.0625 1.000001", NAMES, 1024, 1280)
    assert rounded.warnings == ()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("far", ["1e6", "1e30", "1e150"])
def test_boxes_that_reach_very_far_are_cut_off_and_doubted(far):
    labels = read_voc(voc(voc_object("car", (f"-{far}", 11, far, far))), 80, 100)
    assert labels.boxes.tolist() == [[0, 10, 100, 80]]
    assert labels.warnings == ("object 1: most of the box lies outside the image",)
