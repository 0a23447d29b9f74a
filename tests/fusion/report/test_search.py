"""Tables and pictures of a search."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from fusion.errors import UserError
from fusion.report import search
from fusion.report.parallel import bend, numeric, parallel_coordinates, scale_of
from fusion.report.search import learning_curves, pareto_figure, settings_figure
from fusion.report.trials import higher_is_better, label_of, pareto_front, summary
from tests.helpers.figures import figure_of

PARAMETERS = ["model.experts", "loss.gradient", "balance"]


def table(count: int = 4, seeds: int = 2, long: bool = False) -> pd.DataFrame:
    """Setting i: Q_abf i / 10 (+ 0.02 by seed), NIQE 9 - i."""
    rows = []
    for i in range(count):
        for seed in range(seeds):
            rows.append(
                {
                    "trial": f"t{i}s{seed}",
                    "label": f"experts {i + 2} and a text that goes on and on {i}" if long else f"E{i + 2}",
                    "model.experts": i + 2,
                    "loss.gradient": 10.0**i,
                    "balance": ("none", "load")[i % 2],
                    "seed": seed,
                    "state": "finished",
                    "epochs": 3,
                    "val/qabf": i / 10 + 0.02 * seed,
                    "val/niqe": 9.0 - i,
                    "val/map50": 10.0 * i,
                }
            )
    return pd.DataFrame(rows)


def curves(trials: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for trial in trials.to_dict("records"):
        for epoch in range(1, trial["epochs"] + 1):
            value = trial["val/qabf"] * epoch / trial["epochs"]
            rows.append({k: trial[k] for k in ("trial", "label", "seed")} | {"epoch": epoch, "val/qabf": value})
    return pd.DataFrame(rows)


def brute_force_front(values: np.ndarray, up: list[bool]) -> list[bool]:
    good = [[v if u else -v for v, u in zip(row, up, strict=True)] for row in values]

    def beats(a, b):
        return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))

    clean = [not any(math.isnan(v) for v in row) for row in good]
    return [
        clean[i] and not any(clean[j] and beats(good[j], good[i]) for j in range(len(good))) for i in range(len(good))
    ]


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_the_front_is_what_nothing_beats(objectives):
    rng = np.random.default_rng(objectives)
    for _ in range(20):
        values = rng.integers(0, 5, (25, objectives)).astype(float)  # many ties
        values[rng.random(values.shape) < 0.1] = np.nan
        up = rng.random(objectives) < 0.5
        assert pareto_front(values, up).tolist() == brute_force_front(values, list(up))


def test_ties_stay_and_nan_goes():
    values = np.array([[1, 2], [1, 2], [2, 1], [0, 0], [np.nan, 9], [np.inf, -1]])
    assert pareto_front(values, [True, True]).tolist() == [True, True, True, False, False, True]
    assert pareto_front(values[:5], [True, False]).tolist() == [False, False, True, True, False]
    assert pareto_front(np.full((2, 2), np.nan), [True, True]).tolist() == [False, False]
    with pytest.raises(ValueError, match="N x 3"):
        pareto_front(values, [True] * 3)


def test_directions_and_labels_are_those_of_the_table():
    assert higher_is_better("qabf") and higher_is_better("val/map50_95") and not higher_is_better("val/niqe")
    assert not higher_is_better("train/loss") and not higher_is_better("val/loss")
    assert (label_of("val/qabf"), label_of("map50"), label_of("train/loss")) == ("Q_abf", "mAP50 (%)", "train/loss")
    with pytest.raises(UserError, match="unknown direction"):
        higher_is_better("val/beauty")


def test_a_summary_has_a_row_per_setting():
    trials = table()
    found = summary(trials, PARAMETERS, ["qabf", "val/niqe"])
    assert found["label"].tolist() == ["E5", "E4", "E3", "E2"]
    assert found["seeds"].tolist() == [2] * 4 and found["qabf_n"].tolist() == [2] * 4
    np.testing.assert_allclose(found["qabf"], [0.31, 0.21, 0.11, 0.01])
    np.testing.assert_allclose(found["qabf_sd"], 0.02 / math.sqrt(2))
    assert found["val/niqe"].tolist() == [6, 7, 8, 9] and found["val/niqe_sd"].tolist() == [0] * 4
    assert summary(trials, PARAMETERS, ["niqe"])["label"].tolist() == ["E5", "E4", "E3", "E2"]  # lower is better
    assert summary(trials.sample(frac=1, random_state=1), PARAMETERS, ["qabf"])["qabf"].tolist() == sorted(
        found["qabf"], reverse=True
    )


def test_what_did_not_finish_enters_no_mean():
    trials = table(5)
    trials.loc[trials["trial"] == "t4s1", ["state", "val/qabf"]] = ("stopped early", 9.0)  # the other seed finished
    trials.loc[trials["label"] == "E4", "state"] = "stopped early"
    trials.loc[trials["label"] == "E5", ["state", "val/qabf"]] = ("failed", 7.0)
    trials.loc[trials["trial"] == "t0s0", "val/qabf"] = np.nan
    found = summary(trials, PARAMETERS, ["qabf"]).set_index("label")
    assert found.index.tolist() == ["E3", "E2", "E6", "E4", "E5"]
    assert found["state"].tolist() == ["finished"] * 3 + ["stopped early", "failed"]
    assert found.loc["E6", "qabf"] == pytest.approx(0.4) and found.loc["E6", "seeds"] == 1
    assert found.loc["E2", "qabf"] == pytest.approx(0.02) and found.loc["E2", "qabf_n"] == 1
    assert math.isnan(found.loc["E2", "qabf_sd"]) and math.isnan(found.loc["E5", "qabf"])


def test_one_lucky_seed_is_not_the_best():
    rows = [("a", 1, 0, "finished", 0.50), ("a", 1, 1, "stopped early", 0.05)]
    rows += [("b", 2, 0, "finished", 0.48), ("b", 2, 1, "finished", 0.47)]
    names = ["label", "model.experts", "seed", "state", "val/qabf"]
    trials = pd.DataFrame(rows, columns=names).assign(trial=[*"wxyz"], epochs=[4, 1, 4, 4])
    assert summary(trials, ["model.experts"], ["qabf"])["label"].tolist() == ["b", "a"]


def test_settings_with_parameters_that_are_not_there_stay_apart():
    """A parameter that only some trials have is NaN in others; no setting may get lost by it."""
    trials = table(2, 2)
    trials["model.top_k"] = [np.nan, np.nan, 2.0, 2.0]
    assert summary(trials, ["model.top_k"], ["qabf"])["seeds"].tolist() == [2, 2]


DRAWINGS = {
    "settings": lambda t, **o: settings_figure(t, ["qabf", "niqe"], **o),
    "parallel": lambda t, **o: parallel_coordinates(t, PARAMETERS, "qabf", log=["loss.gradient"], **o),
    "curves": lambda t, **o: learning_curves(curves(t), "qabf", **o),
    "pareto": lambda t, **o: pareto_figure(t, ("qabf", "niqe"), **o),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
@pytest.mark.parametrize("seeds,count,long", [(1, 1, False), (2, 5, False), (1, 40, True)])
def test_every_picture_is_drawn(draw, seeds, count, long):
    trials = table(count, seeds, long)
    trials["loss.gradient"] = trials["loss.gradient"].clip(upper=1e6)
    trials.loc[trials.index[1::4], "state"] = "stopped early"
    trials.loc[trials.index[2::4], "state"] = "failed"
    trials.loc[trials.index[3::4], "val/niqe"] = np.nan
    assert draw(trials).lstrip().startswith(b"<?xml")


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_the_same_table_gives_the_same_bytes(draw):
    trials = table(3)
    assert draw(trials) == draw(trials) and draw(trials, format="png").startswith(b"\x89PNG")


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_missing_columns_are_told(draw):
    with pytest.raises(UserError, match=r"val/qabf|is empty"):
        draw(table().drop(columns="val/qabf") if draw is not DRAWINGS["curves"] else table().iloc[:0])


def markers(figure: Figure, marker: str, colour: str) -> list[tuple[float, float]]:
    """Return the points of the first panel that are drawn with a marker in a colour."""
    lines = [line for line in figure.axes[0].lines if (line.get_marker(), line.get_color()) == (marker, colour)]
    return [point for line in lines for point in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_the_best_setting_is_marked_by_its_direction():
    trials = table()
    for metric, place in (("qabf", 3), ("niqe", 3), ("map50", 3)):
        figure = figure_of(search, lambda metric=metric: settings_figure(trials, [metric]))
        means, best = markers(figure, "o", search.PLAIN), markers(figure, "D", search.BEST)
        assert len(means) == 4 and best == [means[place]]
    trials["val/niqe"] *= -1
    figure = figure_of(search, lambda: settings_figure(trials, ["niqe"]))
    assert markers(figure, "D", search.BEST) == [markers(figure, "o", search.PLAIN)[0]]


def test_shared_words_go_below_the_axis():
    trials = table()
    trials["label"] = [f"alpha {10**i}" for i in range(4) for _ in range(2)]
    svg = settings_figure(trials, ["qabf"]).decode()
    assert ">alpha<" in svg and ">1000<" in svg and "alpha 1000" not in svg


def test_many_curves_have_no_legend_of_all():
    few, many = (learning_curves(curves(table(n, 1)), "qabf").decode() for n in (8, 9))
    assert all(f">E{i + 2}<" in few for i in range(8))
    assert ">E3<" not in many and "E10 ends best" in many and "8 other trials" in many


def test_a_trial_stopped_early_ends_with_a_dot():
    trials = table(3, 1)
    assert "stopped early" not in learning_curves(curves(trials), "qabf").decode()
    trials.loc[0, "epochs"] = 2
    svg = learning_curves(curves(trials), "qabf").decode()
    assert "stopped early" in svg
    figure = figure_of(search, lambda: learning_curves(curves(trials), "qabf"))
    assert markers(figure, "o", search.PLAIN) == [(2, 0.0)]


def test_the_front_is_labelled():
    trials = table(4, 1)
    trials["val/niqe"] = [1.0, 2.0, 9.0, 4.0]  # E4 is beaten by E5
    svg = pareto_figure(trials, ("qabf", "niqe")).decode()
    assert all(f">{name}<" in svg for name in ("E2", "E3", "E5")) and ">E4<" not in svg
    with pytest.raises(UserError, match="two objectives"):
        pareto_figure(trials, ("qabf",))


def test_failed_trials_are_left_out_and_counted():
    trials = table()
    trials.loc[0, "state"] = "failed"
    trials.loc[1, "val/qabf"] = np.nan
    assert "6 trials" in (svg := parallel_coordinates(trials, PARAMETERS, "qabf").decode())
    assert "2 failed or without a value" in svg and ">none<" in svg
    trials["state"] = "failed"
    with pytest.raises(UserError, match="no trial has a value"):
        parallel_coordinates(trials, PARAMETERS, "qabf")


def test_scales():
    log = numeric(np.array([1.0, 10.0, 100.0]), True)
    np.testing.assert_allclose(log.places, [0, 0.5, 1])
    np.testing.assert_allclose(numeric(np.array([1.0, 10.0, 100.0]), False).places, [0, 1 / 11, 1])
    np.testing.assert_allclose(numeric(np.array([0.0, 1.0, 4.0]), True).places, [0, 0.25, 1])  # no log of 0
    assert scale_of(pd.Series(["a", "b", "c", "a"]), False).places.tolist() == [0, 0.5, 1, 0]
    assert [text for _, text in scale_of(pd.Series([True, False]), False).ticks] == ["True", "False"]
    assert numeric(np.array([3.0, 3.0]), True).places.tolist() == [0.5, 0.5]
    assert np.isnan(scale_of(pd.Series([1.0, np.nan, 2.0]), False).places).tolist() == [False, True, False]
    many = numeric(np.geomspace(0.001, 1000, 50), True).ticks
    assert many[0] == (0.0, "0.001") and many[-1][1] == "1000" and min(np.diff([h for h, _ in many])) >= 0.045


def test_lines_go_through_every_place():
    x, y = bend([0.0, 1.0, 0.25])
    for place, value in enumerate([0.0, 1.0, 0.25]):
        np.testing.assert_allclose(y[np.isclose(x, place)], value)
