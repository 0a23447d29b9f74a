"""An evolution that begins with an earlier one: what is copied, and what is refused. Without Ray."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fusion.errors import UserError
from tests.helpers.folders import times
from workflows.evolve.earlier import check_start, copy_evolutions
from workflows.evolve.store import count_evolutions, read_evolution, read_labels
from workflows.legacy import upgrade_settings

OLD = Path(__file__).parents[2] / "fixtures" / "103a0ad" / "evolve"


@pytest.fixture
def start(tmp_path) -> Path:
    """Two evolutions of an earlier version, and what a run leaves that no other run may take."""
    folder = tmp_path / "start"
    shutil.copytree(OLD, folder)
    for rest in ("lease.json", "evolutions/2/training/checkpoint_0/state.json", "evolutions/2/training/tensorboard/x"):
        (folder / rest).parent.mkdir(exist_ok=True)
        (folder / rest).write_text("{}")
    return folder


def settings(start: Path) -> dict:
    return upgrade_settings(json.loads((start / "settings.json").read_text()))


def test_library_labels_and_networks_are_copied(start, tmp_path):
    out = tmp_path / "out"
    check_start(str(start), settings(start))
    copy_evolutions(str(start), str(out))
    assert count_evolutions(str(out)) == 2
    for n in (1, 2):
        assert read_evolution(str(out), n) == read_evolution(str(start), n)
        assert read_labels(str(out), n) == read_labels(str(start), n)
        network = f"evolutions/{n}/training/checkpoint/model.safetensors"
        assert (out / network).read_bytes() == (start / network).read_bytes()
    top = {path.name for path in out.iterdir()}
    assert {"library", "evolutions"} <= top and not top & {"lease.json", "evolve.json", "settings.json", "checkpoint"}
    inside = {path.name for path in (out / "evolutions/2/training").iterdir()}
    assert inside <= {"checkpoint", "settings.json", "run.json"}


def test_what_is_there_is_not_copied_again(start, tmp_path):
    out = tmp_path / "out"
    copy_evolutions(str(start), str(out))
    before = times(out)
    copy_evolutions(str(start), str(out))
    assert times(out) == before
    (out / "evolutions/2/evolution.json").unlink()  # as if it had been killed in the middle
    (out / "evolutions/2/labels.csv").write_text("cut o")
    copy_evolutions(str(start), str(out))
    assert read_labels(str(out), 2) == read_labels(str(start), 2) and count_evolutions(str(out)) == 2


def test_what_cannot_be_begun_with_is_refused(start, tmp_path):
    with pytest.raises(UserError, match=r"nowhere holds no finished evolution"):
        check_start(str(tmp_path / "nowhere"), {})
    wanted = settings(start)
    wanted["recipe"]["seed"] = 7
    with pytest.raises(UserError, match=r"--from .*recipe.seed is 0 there and 7 now.*the same pairs"):
        check_start(str(start), wanted)
    copy_evolutions(str(start), str(tmp_path / "out"))
    path = tmp_path / "out/evolutions/1/evolution.json"
    path.write_text(path.read_text().replace('"epochs": ', '"epochs": 9'))
    with pytest.raises(UserError, match=r"another evolution 1 than --from"):
        copy_evolutions(str(start), str(tmp_path / "out"))
