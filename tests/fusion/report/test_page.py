"""The report: means, ranks, plots and the page."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fusion.errors import UserError
from fusion.report import plots, style
from fusion.report.gallery import MAX_BYTES, MAX_WIDTH, GalleryRow, encode, strips
from fusion.report.html import render
from fusion.report.tables import (
    degradation_order,
    format_value,
    level_order,
    missing_notes,
    paper_table,
    ranking,
    summarise,
)
from tests.helpers.data import DATA, evidence
from tests.helpers.figures import figure_of


@dataclass(frozen=True)
class Info:
    label: str
    higher_is_better: bool | None


METRICS = {"en": Info("EN", True), "qabf": Info("Q_abf", True), "mse": Info("MSE", False), "odd": Info("Odd", None)}


def table(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["method", "image", "degradation", "level", "metric", "value"])


def grid(methods: int = 3, families: tuple[str, ...] = ("noise", "haze"), levels: int = 3) -> pd.DataFrame:
    """Every method on three images, clean and under the families; method 0 is the best."""
    rng = np.random.default_rng(0)
    conditions = [("clean", "0")] + [(f, str(lv)) for f in families for lv in range(1, levels + 1)]
    return table(
        *[
            (f"method {m}", f"image {i}", d, lv, metric, 1 - 0.1 * m - 0.05 * int(lv) + rng.normal(0, 0.01))
            for m in range(methods)
            for d, lv in conditions
            for i in range(3)
            for metric in ("en", "mse")
        ]
    )


def pick(summary: pd.DataFrame, method: str, degradation: str, level: str, metric: str) -> dict:
    keys = {"method": method, "degradation": degradation, "level": level, "metric": metric}
    found = summary[np.logical_and.reduce([summary[k] == v for k, v in keys.items()])]
    assert len(found) == 1
    return found.iloc[0].to_dict()


def page(**changes) -> str:
    arguments = {
        "title": "A report",
        "scores": grid(),
        "gallery": [],
        "provenance": {"git sha": "0123abc"},
        "commands": ["duskfuse score --fused out"],
        "metrics": METRICS,
    }
    return render(**{**arguments, **changes})


# --- tables ---------------------------------------------------------------------------------------------------------


def test_summarise_by_hand() -> None:
    summary = summarise(
        table(
            ("a", "1", "clean", "0", "en", 1.0),
            ("a", "2", "clean", "0", "en", 3.0),
            ("a", "3", "clean", "0", "en", math.nan),
            ("a", "1", "noise", "1", "en", 8.0),
            ("a", "2", "noise", "1", "en", math.inf),
            ("b", "1", "noise", "1", "en", math.nan),
        ),
        METRICS,
    )
    clean = pick(summary, "a", "clean", "0", "en")
    assert (clean["mean"], clean["count"], clean["missing"]) == (2.0, 2, 1)
    assert clean["std"] == pytest.approx(math.sqrt(2))  # ((1 - 2)^2 + (3 - 2)^2) / (2 - 1)
    noise = pick(summary, "a", "noise", "1", "en")
    assert (noise["mean"], noise["count"], noise["missing"]) == (8.0, 1, 1) and math.isnan(noise["std"])
    total = pick(summary, "a", "all", "all", "en")
    assert (total["mean"], total["count"], total["missing"]) == (4.0, 3, 2)  # (1 + 3 + 8) / 3
    assert total["std"] == pytest.approx(math.sqrt(13))  # (9 + 1 + 16) / 2
    nothing = pick(summary, "b", "all", "all", "en")
    assert math.isnan(nothing["mean"]) and (nothing["count"], nothing["missing"]) == (0, 1)


def test_summarise_keeps_the_order_whatever_the_rows() -> None:
    conditions = [
        ("clean", "0"), ("noise", "1"), ("noise", "2"), ("noise", "10"), ("haze", "1"), ("defocus", "1"),
        ("stripes", "1"), ("rain", "1"), ("haze+noise", "2+1"), ("haze+noise", "2+3"), ("haze+defocus", "2+2"),
        ("haze+stripes+noise", "2+2+3"),
    ]  # fmt: skip
    names = ["en", "mse", "unknown"]
    rows = [(m, "1", d, lv, n, 1.0) for m in ("zeta", "alpha") for d, lv in conditions for n in names]
    shuffled = table(*rows).sample(frac=1, random_state=3)
    first = table(("zeta", "0", "clean", "0", "mse", 1.0), ("alpha", "0", "clean", "0", "mse", 1.0))
    summary = summarise(pd.concat([first, shuffled]), METRICS)
    expected = [(m, d, lv, n) for m in ("zeta", "alpha") for d, lv in [*conditions, ("all", "all")] for n in names]
    assert list(summary[["method", "degradation", "level", "metric"]].itertuples(index=False, name=None)) == expected


def test_orders() -> None:
    assert sorted(["3+1", "x", "10", "2", "2+10", "2+9"], key=level_order) == ["2", "2+9", "2+10", "3+1", "10", "x"]
    assert sorted(["all", "noise+haze", "rain", "noise", "clean"], key=degradation_order) == [
        "clean", "noise", "rain", "noise+haze", "all",
    ]  # fmt: skip


def test_levels_read_back_as_numbers_are_the_same_levels() -> None:
    summary = summarise(table(("a", 7, "noise", 1, "en", 1.0), ("a", 8, "noise", 2.0, "en", 1.0)), METRICS)
    assert list(summary["level"]) == ["1", "2", "all"]


@pytest.mark.parametrize(
    ("scores", "match"),
    [
        (grid().drop(columns="level"), "no column level"),
        (pd.concat([grid(), grid().head(2)]), "2 scores twice, first method 0 / image 0"),
        (table(("a", None, "noise", "1", "en", 1.0)), "no image"),
        (table(("a", "1", "all", "1", "en", 1.0)), "called 'all'"),
        (table(("a", "1", "noise", "1", "en", "good")), "must hold numbers"),
    ],
)
def test_summarise_refuses(scores: pd.DataFrame, match: str) -> None:
    with pytest.raises(UserError, match=match):
        summarise(scores, METRICS)


def test_summarise_leaves_its_input_alone() -> None:
    scores = grid()
    before = scores.copy()
    summarise(scores, METRICS)
    pd.testing.assert_frame_equal(scores, before)


def ranks(values: dict[str, float], metric: str) -> dict[str, int]:
    summary = summarise(table(*[(m, "1", "clean", "0", metric, v) for m, v in values.items()]), METRICS)
    return {m: rank for (m, d, _, _), rank in ranking(summary, METRICS).items() if d == "clean"}


def test_ranking_shares_ties_and_skips() -> None:
    assert ranks({"a": 0.5, "b": 0.7, "c": 0.7, "d": 0.6, "e": 0.4}, "en") == {"b": 1, "c": 1, "d": 3}
    assert ranks({"a": 0.5, "b": 0.6, "c": 0.5, "d": 0.7}, "en") == {"d": 1, "b": 2, "a": 3, "c": 3}
    assert ranks({"a": 0.50001, "b": 0.50004, "c": 0.1}, "en") == {"a": 1, "b": 1, "c": 3}  # both print 0.5000


def test_ranking_follows_the_direction() -> None:
    assert ranks({"a": 3.0, "b": 1.0, "c": 2.0, "d": 4.0}, "mse") == {"b": 1, "c": 2, "a": 3}
    assert ranks({"a": 3.0, "b": 1.0}, "odd") == {} and ranks({"a": 3.0, "b": 1.0}, "unknown") == {}


def test_ranking_skips_the_missing_and_the_lonely() -> None:
    assert ranks({"a": math.nan, "b": 1.0, "c": 2.0}, "en") == {"c": 1, "b": 2}
    assert ranks({"a": 1.0}, "en") == {} and ranks({"a": 1.0, "b": math.nan}, "en") == {}


def test_format_value() -> None:
    shown = [format_value(v) for v in (0.51234, -0.00001, 1234.5, math.nan, math.inf, -math.inf)]
    assert shown == ["0.5123", "0.0000", "1234.5000", "n/a", "inf", "-inf"]


def test_paper_table_marks_and_flags() -> None:
    scores = grid()
    broken = (scores["method"] == "method 1") & (scores["image"] == "image 2") & (scores["metric"] == "mse")
    scores.loc[broken, "value"] = math.nan
    scores = scores[~((scores["method"] == "method 2") & (scores["metric"] == "mse"))]
    summary = summarise(scores, METRICS)
    paper = paper_table(summary, metrics=METRICS)
    assert [(c.label, c.arrow) for c in paper.columns] == [("EN", "↑"), ("MSE", "↓")]
    assert [(r.method, r.images) for r in paper.rows] == [("method 0", "21"), ("method 1", "14–21"), ("method 2", "21")]
    assert [[c.rank for c in r.cells] for r in paper.rows] == [[1, 0], [2, 0], [3, 0]]  # one mean is over fewer images
    assert [[c.short for c in r.cells] for r in paper.rows] == [[False, False], [False, True], [False, True]]
    assert paper.rows[2].cells[1].text == "–" and "7 not finite" in paper.rows[1].cells[1].detail
    assert (paper.images, paper.uneven) == (21, True)
    expected = scores[(scores["method"] == "method 0") & (scores["metric"] == "en")]["value"].mean()
    assert paper.rows[0].cells[0].text == f"{expected:.4f}"
    one = paper_table(summary, "haze", "2", METRICS)
    assert (one.degradation, one.level, one.images) == ("haze", "2", 3)
    assert not paper_table(summarise(grid(), METRICS), metrics=METRICS).uneven


def test_missing_notes_count_what_is_not_scored_too() -> None:
    scores = grid(methods=2)
    scores.loc[(scores["method"] == "method 0") & (scores["image"] == "image 1"), "value"] = math.inf
    scores = scores[~((scores["method"] == "method 1") & (scores["image"] == "image 2") & (scores["level"] == "3"))]
    first, second = missing_notes(scores, METRICS)
    for fact in ("method 0", "EN, MSE", "7 not finite", "of 21", "image 1, clean"):
        assert fact in first
    for fact in ("method 1", "EN, MSE", "2 not scored", "of 21", "image 2, noise, level 3"):
        assert fact in second
    assert missing_notes(grid(), METRICS) == []


# --- plots ----------------------------------------------------------------------------------------------------------


def svg_text(svg: bytes) -> str:
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return " ".join("".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text"))


def log(runs: int = 2, epochs: int = 5) -> pd.DataFrame:
    names = ("train/l1", "val/l1", "val/psnr", "lr")
    return pd.DataFrame(
        [(f"run {r}", e, n, 10.0 ** -(e + r)) for r in range(runs) for e in range(epochs) for n in names],
        columns=["run", "epoch", "name", "value"],
    )


@pytest.mark.parametrize(
    "scores",
    [
        grid(methods=1, families=("noise",)),
        grid(methods=20, families=("noise", "haze+noise")),
        grid(methods=2, families=tuple(f"kind {i}" for i in range(17)), levels=2),
        grid(methods=2)[lambda t: t["degradation"] != "clean"],
        grid(methods=2).assign(value=math.nan),
    ],
    ids=["one method", "20 methods", "17 degradations", "no clean", "nothing finite"],
)
def test_level_plot_is_a_picture(scores: pd.DataFrame) -> None:
    summary = summarise(scores, METRICS)
    svg = plots.metric_over_level(summary, "mse", metrics=METRICS)
    text = svg_text(svg)
    for name in {*scores["method"], *scores["degradation"]} - {"clean"}:
        assert name in text
    clean = scores[(scores["degradation"] == "clean") & np.isfinite(scores["value"])]
    assert "lower is better" in text
    assert ("on clean input" in text) == (len(clean) > 0 and scores["method"].nunique() <= style.MAX_CLEAR_LINES)


def test_level_plot_draws_means_and_standard_errors() -> None:
    values = {"1": (0.2, 0.4), "2": (0.6, 0.6), "3": (1.0, 0.8)}
    scores = table(*[("a", str(i), "noise", lv, "en", v) for lv, pair in values.items() for i, v in enumerate(pair)])
    summary = summarise(scores, METRICS)
    (axis,) = figure_of(plots, lambda: plots.metric_over_level(summary, "en", metrics=METRICS)).axes
    (means,) = (line.get_ydata() for line in axis.lines)
    (spans,) = (
        np.diff([segment[:, 1] for segment in bars.get_segments()])
        for bars in axis.collections
        if len(bars.get_segments())
    )
    assert means == pytest.approx([0.3, 0.6, 0.9])
    assert spans[:, 0] / 2 == pytest.approx([0.1, 0.0, 0.1])  # std(0.2, 0.4) / sqrt(2) = 0.1414 / 1.414


def test_level_plot_without_levels_is_refused() -> None:
    with pytest.raises(UserError, match="two levels or more"):
        plots.metric_over_level(summarise(grid(levels=1), METRICS), "en", metrics=METRICS)


def test_training_curves() -> None:
    table = log()
    table.loc[3, "value"] = math.inf
    text = svg_text(plots.training_curves(table))
    assert all(word in text for word in ("l1", "psnr", "lr", "run 0", "run 1", "training", "validation", "epoch"))
    assert "train/l1" not in text and "mathdefault" not in text and "0.001" in text  # one panel, plain log ticks
    assert "no finite value" in svg_text(plots.training_curves(table.assign(value=math.nan)))
    assert svg_text(plots.training_curves(log(runs=20, epochs=1)))
    with pytest.raises(UserError, match="is empty"):
        plots.training_curves(log().head(0))
    with pytest.raises(UserError, match="no column epoch"):
        plots.training_curves(log().drop(columns="epoch"))


def test_plots_as_png() -> None:
    for data in (
        plots.metric_over_level(summarise(grid(), METRICS), "en", metrics=METRICS, format="png"),
        plots.training_curves(log(), format="png"),
    ):
        image = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
        assert image.shape[1] > 600 and image[0, 0] == 255 and (image < 128).mean() > 0.001


def test_names_are_text_not_markup_in_plots() -> None:
    scores = grid().replace({"method 0": "<b>$x_1$ & \\frac", "noise": "$noise"})
    text = svg_text(plots.metric_over_level(summarise(scores, METRICS), "en", metrics=METRICS))
    assert "<b>$x_1$ & \\frac" in text and "$noise" in text


def test_styles_tell_77_names_apart_and_depend_on_the_place_only() -> None:
    look = style.styles([f"m{i}" for i in range(77)])
    assert len({(s.colour, s.marker) for s in look.values()}) == 77
    assert style.styles(["a", "b", "a"])["b"] == style.styles(["a", "b", "c"])["b"]


def test_dark_plot_changes_colours_only() -> None:
    svg = plots.metric_over_level(summarise(grid(), METRICS), "en", metrics=METRICS)
    dark = style.to_dark(svg)
    assert style.PALETTE[0].encode() in svg and style.PALETTE[0].encode() not in dark
    assert re.sub(rb"#[0-9a-f]{6}", b"", dark) == re.sub(rb"#[0-9a-f]{6}", b"", svg)


# --- gallery --------------------------------------------------------------------------------------------------------


def decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_encode_keeps_colours_and_size() -> None:
    smooth = np.tile(np.linspace(0, 255, 300).astype(np.uint8), (200, 1))
    colour = np.stack([smooth, smooth[::-1, ::-1], np.full_like(smooth, 30)], axis=2)
    for image in (smooth, colour):
        shown = decode(encode(image)[0])
        assert shown.shape == image.shape and np.abs(shown.astype(int) - image).mean() < 3
    flat = np.full((50, 60, 3), (200, 10, 30), np.uint8)
    data, kind = encode(flat)
    assert kind == "png" and (decode(data) == flat).all()


def test_encode_bounds_the_bytes_of_the_worst_picture() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    data, kind = encode(noise)
    assert kind == "jpeg" and len(data) <= MAX_BYTES and decode(data).shape[1] <= MAX_WIDTH
    assert 72 * MAX_BYTES * 4 / 3 < 7.5e6  # 12 rows of 6


def test_gallery_columns_line_up() -> None:
    image = np.zeros((6, 8), np.uint8)
    rows = [
        GalleryRow("one", {"visible": image, "fused": image}, boxes=np.array([[1, 2, 5, 4.5]])),
        GalleryRow("two", {"infrared": image, "fused": image}, values={"fused": {"VIF": math.nan, "PSNR": math.inf}}),
    ]
    labels, result = strips(rows)
    assert labels == ["visible", "fused", "infrared"]
    assert [[p and p.label for p in strip.pictures] for strip in result] == [
        ["visible", "fused", None],
        [None, "fused", "infrared"],
    ]
    assert result[0].boxes == (("1.0", "2.0", "4.0", "2.5"),)
    assert result[1].pictures[1].values == (("VIF", "n/a"), ("PSNR", "inf"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"images": {}},
        {"images": {"a": np.zeros((4, 4))}},
        {"images": {"a": np.zeros((4, 4, 4), np.uint8)}},
        {"images": {"a": np.zeros((4, 4), np.uint8)}, "boxes": np.zeros(4)},
        {"images": {"a": np.zeros((4, 4), np.uint8)}, "values": {"b": {"VIF": 1.0}}},
    ],
)
def test_gallery_row_refuses(arguments: dict) -> None:
    with pytest.raises(ValueError, match="gallery row 'x'"):
        GalleryRow("x", **arguments)


# --- the page -------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def gallery_row(title: str = "FLIR_1 · haze · level 2") -> GalleryRow:
    rng = np.random.default_rng(1)
    images = {label: rng.integers(0, 255, (24, 32, 3), dtype=np.uint8) for label in ("visible", "infrared", "fused")}
    return GalleryRow(title, images, np.array([[1, 1, 9, 9]]), {"fused": {"Q_abf": 0.5123}})


def test_page_is_self_contained_and_every_image_decodes() -> None:
    html = page(gallery=[gallery_row(), gallery_row("two")], training=log())
    tags = Page(html).tags
    for _, attrs in tags:
        for name in ("src", "srcset", "href", "action", "data", "poster"):
            assert (attrs.get(name) or "#").startswith(("#", "data:image/"))
    assert "http:" not in html and "https:" not in html and "@import" not in html and "url(" not in html
    uris = [attrs.get("src") or attrs.get("srcset") for tag, attrs in tags if tag in ("img", "source")]
    assert len(uris) == 2 * 3 + 2 * (2 + 1)  # pictures; two metrics and the training curves, light and dark
    for uri in uris:
        kind, data = re.fullmatch(r"data:image/(png|jpeg|svg\+xml);base64,(.+)", uri).groups()
        raw = base64.b64decode(data, validate=True)
        assert svg_text(raw) if kind == "svg+xml" else decode(raw).shape == (24, 32, 3)


def test_page_escapes_everything_from_data() -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    scores = grid().replace({"method 0": evil, "noise": "noise" + evil, "image 0": evil, "mse": evil})
    scores.loc[1, "value"] = math.nan
    row = GalleryRow(evil, {evil: np.zeros((5, 5), np.uint8)}, values={evil: {evil: 1.0}})
    html = page(
        title=evil, scores=scores, gallery=[row], provenance={evil: evil}, commands=[evil], notes=[evil], dialect=evil,
        training=log().replace("run 0", evil),
    )  # fmt: skip
    parsed = Page(html)
    assert [tag for tag, _ in parsed.tags].count("script") == 1 and "<script>alert" not in html
    assert not any(name.startswith("on") for _, attrs in parsed.tags for name in attrs)
    assert parsed.text.count("<script>alert(1)</script>") >= 8


def test_page_policy_lets_its_own_script_run_and_no_other() -> None:
    html = page(gallery=[gallery_row()])
    script = re.search(r"<script>(.*?)</script>", html, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for t, a in Page(html).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert "&lt;" not in script and "&#34;" not in script  # escaped script would be broken script


def test_page_says_what_was_scored() -> None:
    text = Page(page(notes=["1 pair was rejected"], gallery=[gallery_row()])).text
    assert "3 methods on 3 images under clean input and 2 degradations (noise, haze), 7 conditions in all." in text
    assert "2 metrics, in the standard dialect" in text and "21 per method" in text
    for part in ("Overall", "Level 3", "EN ↑", "MSE ↓", "best", "second", "third", "1 pair was rejected", "0123abc"):
        assert part in text
    assert "duskfuse score --fused out" in text and "FLIR_1 · haze · level 2" in text and "Q_abf 0.512" in text
    assert "†" not in text


def test_page_shows_missing_values() -> None:
    scores = grid()
    scores.loc[(scores["method"] == "method 1") & (scores["metric"] == "en"), "value"] = math.nan
    text = Page(page(scores=scores)).text
    assert "n/a" in text and "†" in text and "method 1, EN: 21 not finite of 21 fused images" in text


def test_page_leaves_out_what_there_is_not() -> None:
    html = page(scores=grid(levels=1), commands=[], provenance={})
    assert not {'id="levels"', 'id="training"', 'id="gallery"', 'id="notes"'} & set(re.findall(r'id="\w+"', html))
    empty = Page(page(scores=grid().head(0))).text
    assert "No scores were given." in empty and "Overall" not in empty


def test_page_is_the_same_every_time() -> None:
    arguments = {"gallery": [gallery_row()], "training": log(), "notes": ["a", "b"]}
    assert page(**arguments) == page(**arguments)


@evidence("roadscene")
def test_a_gallery_of_real_pairs_stays_small() -> None:
    files = sorted((DATA / "roadscene" / "visible").iterdir())[:6]
    rng = np.random.default_rng(0)
    rows = []
    for file in files:
        visible = np.asarray(Image.open(file).convert("RGB"))
        noisy = np.clip(visible + rng.normal(0, 50, visible.shape), 0, 255).astype(np.uint8)
        rows.append(
            GalleryRow(file.stem, {f"{name} {i}": im for i in range(3) for name, im in (("a", visible), ("b", noisy))})
        )
    assert len(page(gallery=rows).encode()) < 4e6  # half of a report of 12 rows
