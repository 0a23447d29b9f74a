"""The evolution section of the report: bars, scores, tables and sentences out of what `duskfuse evolve` wrote."""

import math
import re

import pytest

from fusion.errors import UserError
from fusion.report.evolution import EvolutionData, evolutions_table, methods_table, scores_chart, sentences, wins_chart
from fusion.training.evolution import evolve, mean_score, wins

LEARNT, HELD = ["a", "b", "c", "d"], ["x", "y"]
FIRST = {
    "lp": {"a": 1.0, "b": 1.2, "c": 0.9, "d": math.nan, "x": 1.0, "y": 1.2},
    "gff": {"a": 0.8, "b": 1.3, "c": 0.7, "d": 0.6, "x": 0.9, "y": 9.9},
}
NEW = {"net$": {"a": 1.5, "b": 1.1, "c": 0.8, "d": 0.8, "x": 1.4, "y": math.nan}}
NETWORKS = {"network-1": {"x": 0.7, "y": 0.9}, "network-2": {"x": 0.9, "y": 1.1}}


def facts(number, library, joined, labels, old, forgetting):
    every = FIRST | NEW | NETWORKS
    networks = [f"network-{n}" for n in range(1, number + 1)]
    names = [*library, *networks]
    finite = {name: [every[name][key] for key in HELD if math.isfinite(every[name][key])] for name in names}
    return {
        "evolution": number,
        "library": library,
        "joined": joined,
        "labels": len(labels),
        "replaced": sum(key in old and old[key] != label for key, label in labels.items()),
        "wins": wins(labels.values()),
        "label_score": mean_score([label.score for label in labels.values()]),
        "held_out_pairs": 2,
        "held_out_scores": {name: mean_score(values) for name, values in finite.items()},
        "held_out_scored": {name: len(values) for name, values in finite.items()},
        "failures": {name: sum(not math.isfinite(v) for v in every[name].values()) for name in library},
        "forgetting": forgetting,
        "epochs": 3,
    }


def labels_of(scores, old):
    return evolve(old, {name: {key: by_key[key] for key in LEARNT} for name, by_key in scores.items()})


def made(count: int = 2) -> EvolutionData:
    one = labels_of(FIRST, {})
    two = labels_of(NEW, one)
    every = [
        facts(1, ["lp", "gff"], ["lp", "gff"], one, {}, None),
        facts(2, ["lp", "gff", "net$"], ["net$"], two, one, {"before": 0.25, "after": 0.3, "pairs": 4}),
    ]
    scores = {
        name: {key: (score, "" if math.isfinite(score) else "E2 is not a number") for key, score in by_key.items()}
        for name, by_key in (FIRST | NEW | NETWORKS).items()
    }
    return EvolutionData(every[:count], [one, two][:count], scores)


def cells(table, name):
    (row,) = (row for row in table.rows if row.method == name)
    return {column.metric: cell for column, cell in zip(table.columns, row.cells, strict=True)}


def widths(svg: bytes, colour: str) -> list[float]:
    bars = re.findall(rf'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*z\n" clip-path[^>]*{colour}', svg.decode())
    return [float(right) - float(left) for left, right in bars]


def test_bars_are_as_long_as_the_labels_won():
    """Evolution 1: lp wins a and c, gff b and d. Evolution 2: net$ takes a and d, where it is better."""
    svg = wins_chart(made())
    assert b"evolution 1: 4 labels" in svg and b"evolution 2: 4 labels" in svg
    old, new = widths(svg, "#0072b2"), widths(svg, "#d55e00")
    assert len(old) == 4 and len(new) == 1  # two methods in both; net$ only once it is there
    assert [bar / new[0] for bar in old] == pytest.approx([1, 1, 0.5, 0.5], abs=1e-2)
    assert wins_chart(made()) == svg  # the same bytes again
    assert wins_chart(made(), format="png").startswith(b"\x89PNG")
    assert b"joined" not in wins_chart(made(1))  # nothing to tell apart


def test_scores_are_drawn_best_first():
    svg = scores_chart(made())
    text = svg.decode()
    places = [text.index(f">{name}<") for name in ("gff", "net$", "lp", "network-2", "network-1")]
    assert places == sorted(places)  # held-out means 5.4, 1.4, 1.1, 1.0, 0.8
    assert scores_chart(made()) == svg


def test_the_table_of_methods():
    table = methods_table(made())
    assert [row.method for row in table.rows] == ["lp", "gff", "net$", "network-1", "network-2"]
    lp, new, network = cells(table, "lp"), cells(table, "net$"), cells(table, "network-2")
    assert [lp[name].text for name in ("joined", "wins 1", "wins 2", "held out")] == ["1", "2", "1", "1.1000"]
    assert lp["labelled"].text == "1.0333" and lp["labelled"].short  # d has no number
    assert [new[name].text for name in ("joined", "wins 1", "wins 2")] == ["2", "–", "2"]
    assert new["labelled"].rank == 1 and not new["labelled"].short  # of the two over all four labels
    assert new["failures"].text == "1" and new["held out"].short and new["held out"].rank == 0
    assert network["labelled"].text == "–" and network["held out"].text == "1.0000"
    ranks = {name: cells(table, name)["held out"].rank for name in ("lp", "gff", "network-1", "network-2")}
    assert ranks == {"gff": 1, "lp": 2, "network-2": 3, "network-1": 0}
    middle = methods_table(made(1))
    assert cells(middle, "gff")["middle"].text == "5.4000" and cells(middle, "network-1")["middle"].text == "0.8000"
    assert table.uneven and table.images == 2


def test_the_table_of_evolutions():
    table = evolutions_table(made())
    assert (table.head, table.counted) == ("Evolution", "Labels")
    one, two = cells(table, "1"), cells(table, "2")
    assert [one[name].text for name in ("replaced", "before", "after", "old before")] == ["0", "–", "0.8000", "–"]
    assert [two[name].text for name in ("joined", "replaced")] == ["net$", "2"]
    assert [two[name].text for name in ("before", "after", "old before", "old after")] == [
        "0.8000",
        "1.0000",
        "0.2500",
        "0.3000",
    ]
    assert float(two["label_score"].text) == pytest.approx((1.5 + 1.3 + 0.9 + 0.8) / 4, abs=1e-4)


def test_sentences():
    lines = sentences(made())
    assert lines[0] == (
        "Evolution 2: net$ took over 2 of 4 labels (from lp 1, gff 1), 0.3500 of E2 better on average."
    )  # 1.5 - 1.0 and 0.8 - 0.6
    assert "rose from 0.2500 to 0.3000" in lines[1]
    assert any(line.startswith("net$ has no result on 1 of 6 pairs (y: E2") for line in lines)
    assert any("gff scores over 3 times its median of 0.85 on 1 of 6 pairs, up to 9.90 (y)" in line for line in lines)
    assert not any("took over" in line for line in sentences(made(1)))


def test_what_is_no_evolution():
    with pytest.raises(UserError, match="0 evolutions"):
        EvolutionData([], [], {})
    with pytest.raises(UserError, match="2 evolutions and the labels of 1"):
        EvolutionData(made().evolutions, made().labels[:1], {})
