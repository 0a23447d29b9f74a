"""Sections of the report out of what jobs leave behind, without Ray."""

import json

import pytest

from fusion.report.evolution import sentences
from fusion.training.evolution import to_csv
from tests.helpers.command_line import one_line
from tests.helpers.evolutions import cells, two_evolutions
from workflows.report.sections import evolution_section


@pytest.fixture
def folder(tmp_path):
    """What `duskfuse evolve` leaves behind, as far as a report reads it."""
    evolved = two_evolutions()
    for number, labels in enumerate(evolved.labels, 1):
        place = tmp_path / "evolutions" / str(number)
        (place / "training").mkdir(parents=True)
        (place / "labels.csv").write_text(to_csv(labels))
        history = [{"epoch": epoch, "train/loss": 1 / epoch, "seconds": 1.0} for epoch in (1, 2, 3)]
        about = {"provenance": {"command": f"duskfuse evolve number {number}"}, "history": history}
        (place / "training" / "run.json").write_text(json.dumps(about))
    for name, scores in evolved.scores.items():
        (tmp_path / "library" / name).mkdir(parents=True)
        text = json.dumps({key: (repr(score), why) for key, (score, why) in scores.items()})
        (tmp_path / "library" / name / "scores.json").write_text(text)
    (tmp_path / "evolve.json").write_text(json.dumps({"provenance": {}, "evolutions": evolved.evolutions}))
    return tmp_path


def test_a_page_of_a_folder(folder, command, tmp_path):
    page = tmp_path / "r.html"
    code, _, err = command("report", "--evolution", folder, "--out", page)
    assert code == 0, err
    text = page.read_text()
    assert 'id="evolution-1"' in text and "net$ took over 2 of 4 labels" in text
    assert "duskfuse evolve number 1\nduskfuse evolve number 2\nduskfuse report" in text
    assert ">Evolution</th>" in text and ">Method</th>" in text
    section = evolution_section(str(folder), 2)
    assert section.name == "evolution-2" and len(section.plots) == 3
    assert section.notes == tuple(sentences(two_evolutions()))


def test_a_folder_that_lacks_something(folder, command, tmp_path):
    """Without a method's scores and a training's history the rest is shown; without labels there is one clear line."""
    (folder / "library" / "lp" / "scores.json").unlink()
    (folder / "evolutions" / "1" / "training" / "run.json").unlink()
    section = evolution_section(str(folder))
    lp = cells(section.tables[1][1], "lp")
    assert lp["labelled"].text == lp["failures"].text == "–" and lp["held out"].text == "1.1000"
    (folder / "evolutions" / "2" / "labels.csv").write_text("nothing\n1\n")
    code, _, err = command("report", "--evolution", folder, "--out", tmp_path / "r.html")
    assert code == 2
    one_line(err, "labels.csv is no table of labels")
    for missing, words in ((tmp_path / "none", "no finished `duskfuse evolve`"), ("", "--evolution")):
        more = ["--evolution", missing] if missing else []
        code, _, err = command("report", *more, "--out", tmp_path / "r.html")
        assert code == 2
        one_line(err, words)
