"""The evolution section of the report: bars, scores, tables and sentences out of what `duskfuse evolve` wrote."""

import pytest

from fusion.errors import UserError
from fusion.report import evolution
from fusion.report.evolution import EvolutionData, evolutions_table, methods_table, scores_chart, sentences, wins_chart
from fusion.report.style import PALETTE
from tests.helpers.evolutions import cells, two_evolutions
from tests.helpers.figures import bars, figure_of


def test_bars_are_as_long_as_the_labels_won():
    """Evolution 1: lp wins a and c, gff b and d. Evolution 2: net$ takes a and d, where it is better."""
    svg = wins_chart(two_evolutions())
    assert b"evolution 1: 4 labels" in svg and b"evolution 2: 4 labels" in svg
    figure = figure_of(evolution, lambda: wins_chart(two_evolutions()))
    old, new = ([bar.get_width() for bar in bars(figure, colour)] for colour in PALETTE[:2])
    assert sorted(old) == [1, 1, 2, 2] and new == [2]  # two methods in both; net$ only once it is there
    assert wins_chart(two_evolutions()) == svg  # the same bytes again
    assert wins_chart(two_evolutions(), format="png").startswith(b"\x89PNG")
    assert b"joined" not in wins_chart(two_evolutions(1))  # nothing to tell apart


def test_scores_are_drawn_best_first():
    svg = scores_chart(two_evolutions())
    text = svg.decode()
    places = [text.index(f">{name}<") for name in ("gff", "net$", "lp", "network-2", "network-1")]
    assert places == sorted(places)  # held-out means 5.4, 1.4, 1.1, 1.0, 0.8
    assert scores_chart(two_evolutions()) == svg


def test_the_table_of_methods():
    table = methods_table(two_evolutions())
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
    middle = methods_table(two_evolutions(1))
    assert cells(middle, "gff")["middle"].text == "5.4000" and cells(middle, "network-1")["middle"].text == "0.8000"
    assert table.uneven and table.images == 2


def test_the_table_of_evolutions():
    table = evolutions_table(two_evolutions())
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
    lines = sentences(two_evolutions())
    for fact in ("Evolution 2", "net$", "2 of 4 labels", "lp 1", "gff 1", "0.3500"):  # mean of 1.5 - 1.0 and 0.8 - 0.6
        assert fact in lines[0]
    assert "rose from 0.2500 to 0.3000" in lines[1]
    assert any(line.startswith("net$ has no result on 1 of 6 pairs (y: E2") for line in lines)
    assert any("gff scores over 3 times its median of 0.85 on 1 of 6 pairs, up to 9.90 (y)" in line for line in lines)
    assert not any("took over" in line for line in sentences(two_evolutions(1)))


def test_what_is_no_evolution():
    with pytest.raises(UserError, match="0 evolutions"):
        EvolutionData([], [], {})
    with pytest.raises(UserError, match="2 evolutions and the labels of 1"):
        EvolutionData(two_evolutions().evolutions, two_evolutions().labels[:1], {})
