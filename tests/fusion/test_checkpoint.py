"""A checkpoint folder alone rebuilds the model; what is damaged is named; nothing is ever unpickled."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fusion import checkpoint
from fusion.config import to_dict
from fusion.errors import UserError
from fusion.models.registry import Model
from fusion.models.tgecnet import TGECNet
from tests.helpers.tiny_models import SMALL


def build(stage="restore", seed=0, **changes) -> TGECNet:
    torch.manual_seed(seed)
    return TGECNet(replace(SMALL, stage=stage, **changes))


def save(folder: Path, model: TGECNet, **given) -> Path:
    checkpoint.save(folder, "tgecnet", model, **{"recipe": {"name": "r"}, "state": {"epoch": 2}} | given)
    return folder


def stepped(model: TGECNet, steps=2) -> torch.optim.Adam:
    """Adam after some steps: moments that are not zero."""
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    image = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        optimiser.zero_grad()
        out = model.train()(image) if model.fusion is None else model.train()(image, image.flip(-1))
        (out.image.square().mean() + out.balance).backward()
        optimiser.step()
    return optimiser


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, TGECNet]:
    torch.set_num_threads(1)
    model = build("fuse")
    optimiser = stepped(model)
    return save(tmp_path_factory.mktemp("checkpoint") / "a" / "b", model, optimiser=optimiser), model


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "copy"))


# round trip


def test_a_folder_rebuilds_the_model(saved):
    folder, model = saved
    loaded = checkpoint.load(folder)
    assert loaded.name == "tgecnet"
    assert loaded.model.config == model.config
    assert loaded.recipe == {"name": "r"}
    assert loaded.state == {"epoch": 2}
    assert not loaded.model.training
    state = model.state_dict()
    assert loaded.model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.model.state_dict().items())
    pair = torch.rand(2, 1, 1, 13, 17, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.equal(loaded.model(*pair).image, model.eval()(*pair).image)


def test_a_text_path_does(saved):
    assert checkpoint.load(str(saved[0]), expect="tgecnet").name == "tgecnet"


def test_the_moments_return_by_name(saved):
    folder, _ = saved
    model, other = build("fuse", seed=5), build("fuse")
    expected = stepped(other)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    checkpoint.load_optimiser(model, optimiser, folder)
    names = dict(model.named_parameters())
    trained = [name for name, p in names.items() if p.requires_grad]
    assert len(optimiser.state) == len(trained) > 10
    for name in trained:
        ours, theirs = optimiser.state[names[name]], expected.state[other.get_parameter(name)]
        assert ours.keys() == theirs.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
        assert ours["step"] == 2


def test_saving_again_replaces_all(saved, copy):
    model = build("fuse", seed=8)
    save(copy, model, state={"epoch": 3})
    loaded = checkpoint.load(copy)
    assert loaded.state == {"epoch": 3}
    assert torch.equal(loaded.model.fusion.alpha, model.fusion.alpha)
    assert torch.equal(loaded.model.restoration.embed.weight, model.restoration.embed.weight)


def test_fingerprints_are_equal_for_equal_models_alone(saved, tmp_path):
    folder, model = saved
    print0 = checkpoint.load(folder).fingerprint
    assert print0 == checkpoint.load(folder).fingerprint
    again = save(tmp_path / "again", model, recipe={"name": "other"}, state={"epoch": 9})
    assert checkpoint.load(again).fingerprint == print0
    twin = build("fuse", seed=11)
    twin.load_state_dict(model.state_dict())
    assert checkpoint.load(save(tmp_path / "twin", twin)).fingerprint == print0
    with torch.no_grad():
        twin.fusion.theta += 1e-6
    assert checkpoint.load(save(tmp_path / "nearly", twin)).fingerprint != print0
    routed = build("fuse", top_k=3)  # the same weights, used in another way
    routed.load_state_dict(model.state_dict())
    assert checkpoint.load(save(tmp_path / "routed", routed)).fingerprint != print0


def test_only_safetensors_and_json_are_written(saved):
    folder, model = saved
    names = {"model.safetensors", "optimiser.safetensors", "config.json", "state.json"}
    assert {path.name for path in folder.iterdir()} == names
    for name in ("config.json", "state.json"):
        json.loads((folder / name).read_text())
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(model.state_dict())
    with safe_open(folder / "optimiser.safetensors", "pt") as file:
        assert {key.rpartition("/")[2] for key in file.keys()} == {"step", "exp_avg", "exp_avg_sq"}
        assert all(key.startswith("fusion.") for key in file.keys())
    about = json.loads((folder / "config.json").read_text())
    assert about["model"] == "tgecnet"
    assert about["config"] == to_dict(model.config)


def test_reading_never_unpickles(saved, monkeypatch):
    def refuse(*given, **named):
        raise AssertionError("something was unpickled")

    monkeypatch.setattr("pickle.load", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    monkeypatch.setattr("torch.load", refuse)
    model = checkpoint.load(saved[0]).model
    checkpoint.load_optimiser(model, torch.optim.Adam(model.fusion.parameters()), saved[0])


def test_the_state_is_written_last(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(checkpoint, "save_file", lambda tensors, path: written.append(path.name))
    write_text = Path.write_text
    monkeypatch.setattr(Path, "write_text", lambda path, text: written.append(path.name) or write_text(path, text))
    model = build()
    save(tmp_path / "c", model, optimiser=stepped(model, 1))
    assert sorted(written[:-1]) == ["config.json", "model.safetensors", "optimiser.safetensors"]
    assert written[-1] == "state.json"


# part of a model


def test_weights_of_a_part_alone(tmp_path):
    stage1 = build(seed=1)
    folder = save(tmp_path / "s1", stage1)
    fuser = build("fuse", seed=2)
    head = {name: tensor.clone() for name, tensor in fuser.fusion.state_dict().items()}
    checkpoint.load_weights(fuser, folder, only="restoration.")
    assert all(torch.equal(t, fuser.restoration.state_dict()[n]) for n, t in stage1.restoration.state_dict().items())
    assert all(torch.equal(t, fuser.fusion.state_dict()[n]) for n, t in head.items())
    with pytest.raises(UserError, match="fusion"):
        checkpoint.load_weights(fuser, folder)


# trouble


def refused(folder: Path, *named: str, **given):
    with pytest.raises(UserError) as caught:
        checkpoint.load(folder, **given)
    text = str(caught.value)
    assert all(part in text for part in (str(folder), *named)), text
    assert "\n" not in text


@pytest.mark.parametrize("name", checkpoint.FILES)
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    refused(copy, name, "missing")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    refused(tmp_path / "nothing", "not a checkpoint")


@pytest.mark.parametrize("name", checkpoint.FILES)
@pytest.mark.parametrize("damage", ["cut", "empty", "zeros"])
def test_a_damaged_file_is_named(copy, name, damage):
    data = (copy / name).read_bytes()
    (copy / name).write_bytes({"cut": data[: len(data) // 2], "empty": b"", "zeros": bytes(len(data))}[damage])
    refused(copy, name, "damaged")


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"'])
@pytest.mark.parametrize("name", ["config.json", "state.json"])
def test_json_that_is_no_table_is_damaged(copy, name, text):
    (copy / name).write_text(text)
    refused(copy, name, "damaged")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "unet"}, "'unet'"),
        ({"model": None}, "unknown model"),
        ({"model": ["tgecnet"]}, "unknown model"),
        ({"format": 3}, "format 3"),
        ({"config": None}, "config.json"),
        ({"config": {"layers": 3}}, "layers"),
    ],
)
def test_other_contents_are_refused(copy, change, named):
    about = json.loads((copy / "config.json").read_text()) | change
    (copy / "config.json").write_text(json.dumps(about))
    refused(copy, named)


@pytest.mark.parametrize("key", ["format", "model", "config"])
def test_absent_entries_are_refused(copy, key):
    about = json.loads((copy / "config.json").read_text())
    del about[key]
    (copy / "config.json").write_text(json.dumps(about))
    refused(copy)


def test_another_model_than_expected_is_named(copy):
    refused(copy, "tgecnet", "moefusion", expect="moefusion")


def test_weights_of_another_shape_are_named_with_both_shapes(copy):
    about = json.loads((copy / "config.json").read_text())
    about["config"]["experts"] = 5
    (copy / "config.json").write_text(json.dumps(about))
    refused(copy, "moe", "(16, 5)", "(16, 4)")


def test_weights_that_lack_a_name_are_named(copy):
    model = build("fuse")
    tensors = {name: t.contiguous() for name, t in model.state_dict().items() if name != "fusion.theta"}
    checkpoint.save_file(tensors, copy / "model.safetensors")
    refused(copy, "fusion.theta", "none")


def test_a_checkpoint_without_moments_cannot_be_resumed(copy):
    (copy / "optimiser.safetensors").unlink()
    model = checkpoint.load(copy).model
    with pytest.raises(UserError, match=r"optimiser\.safetensors"):
        checkpoint.load_optimiser(model, torch.optim.Adam(model.fusion.parameters()), copy)


# where checkpoints are


def test_fetch_finds_a_checkpoint_itself_and_inside_a_run(saved, tmp_path):
    folder, _ = saved
    assert checkpoint.fetch(str(folder)) == folder
    run = tmp_path / "run"
    shutil.copytree(folder, run / "checkpoint")
    assert checkpoint.fetch(str(run)) == run / "checkpoint"
    assert checkpoint.fetch(f"{run}/") == run / "checkpoint"


def test_fetch_copies_a_remote_one(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder, _ = saved
    local = checkpoint.fetch(folder.as_uri())
    assert local.parent == tmp_path
    assert checkpoint.load(local).fingerprint == checkpoint.load(folder).fingerprint


def test_fetch_knows_the_home_folder(copy, monkeypatch):
    monkeypatch.setenv("HOME", str(copy.parent))
    assert checkpoint.load(checkpoint.fetch("~/copy")).name == "tgecnet"


def test_fetch_names_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint at .*nothing"):
        checkpoint.fetch(str(tmp_path / "nothing"))
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="no finished checkpoint"):
        checkpoint.fetch(str(tmp_path))


# networks that go along, and networks of other tables


@dataclass(frozen=True)
class OtherConfig:
    width: int = 3


class Other(torch.nn.Module):
    def __init__(self, config: OtherConfig) -> None:
        super().__init__()
        self.config = config
        self.layer = torch.nn.Linear(config.width, 2)


OTHERS = {"other": Model("Other", OtherConfig, Other, "tests")}


@pytest.fixture
def joined(copy) -> tuple[Path, Other]:
    """A checkpoint with another network in the folder of its first part."""
    other = Other(OtherConfig(5))
    checkpoint.save(copy / checkpoint.PARTS[0], "other", other, recipe={}, state={"held": True})
    return copy, other


def test_other_tables_of_networks(joined):
    folder, other = joined
    loaded = checkpoint.load(folder / "detectors", models=OTHERS)
    assert (loaded.name, loaded.model.config, loaded.state) == ("other", OtherConfig(5), {"held": True})
    assert torch.equal(loaded.model.layer.weight, other.layer.weight) and not loaded.model.training
    refused(folder / "detectors", "unknown model 'other'", "tgecnet")
    refused(folder, "unknown model 'tgecnet'", "other", models=OTHERS)
    refused(folder / "detectors", "holds other, not twins", expect="twins", models=OTHERS)


def test_a_part_is_found_where_it_is_whole(joined, saved, tmp_path):
    folder, _ = joined
    assert checkpoint.part(folder, "detectors") == folder / "detectors"
    assert checkpoint.part(str(folder), "detectors") == folder / "detectors"
    assert checkpoint.part(saved[0], "detectors") is None
    assert checkpoint.part(tmp_path / "nothing", "detectors") is None
    run = tmp_path / "run"
    shutil.copytree(folder, run / "checkpoint")
    assert checkpoint.part(run, "detectors") == run / "checkpoint" / "detectors"
    assert checkpoint.load(run).fingerprint == checkpoint.load(folder).fingerprint
    (folder / "detectors" / "state.json").unlink()  # written last: the part is not complete
    assert checkpoint.part(folder, "detectors") is None


def test_the_networks_do_not_change_each_other(joined, saved):
    folder, _ = joined
    assert checkpoint.load(folder).fingerprint == checkpoint.load(saved[0]).fingerprint
    inner = checkpoint.load(folder / "detectors", models=OTHERS).fingerprint
    save(folder, build("fuse", seed=8))
    assert checkpoint.load(folder).fingerprint != checkpoint.load(saved[0]).fingerprint
    assert checkpoint.load(folder / "detectors", models=OTHERS).fingerprint == inner


def test_all_files_are_those_of_both_sealed_by_the_last(joined):
    folder, _ = joined
    assert checkpoint.ALL_FILES[-1] == "state.json"
    assert len(set(checkpoint.ALL_FILES)) == len(checkpoint.ALL_FILES) == 6
    assert checkpoint.ALL_FILES.index("detectors/state.json") == 2  # the part before what it goes along with
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert there == {*checkpoint.ALL_FILES, "optimiser.safetensors"}


def test_fetch_copies_what_goes_along(joined, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder, other = joined
    local = checkpoint.fetch(folder.as_uri())
    assert local != folder
    found = checkpoint.load(checkpoint.part(local, "detectors"), models=OTHERS)
    assert torch.equal(found.model.layer.weight, other.layer.weight)
    there = {str(path.relative_to(local)) for path in local.rglob("*") if path.is_file()}
    assert there == set(checkpoint.ALL_FILES)
