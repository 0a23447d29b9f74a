"""What the project does not do with what others wrote: run it, follow it out of its folder, tell its secrets.

The first part reads the source; the second tries. Hostile image folders have a file of their own,
fusion/data/test_hostile.py, as pages of reports have in fusion/report/test_page.py.
"""

import ast
import inspect
import io
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from detection.boxes import truth
from detection.faster_rcnn.model import _read_weights
from detection.yolo.data import write_dataset
from detection.yolo.offline import load_network
from fusion import checkpoint, storage
from fusion.data import corpus
from fusion.data.labels import BadLabels, read_names
from fusion.data.pairs import find_pairs
from fusion.errors import UserError
from fusion.images.png import encode_png
from fusion.metrics import niqe
from fusion.models.configs import AENetConfig
from fusion.models.registry import MODELS
from fusion.secrets import mask_secrets, mask_secrets_in
from fusion.storage import s3
from workflows import cli
from workflows.commonness import tasks as commonness_tasks
from workflows.evolve import library as method_library
from workflows.evolve import options as evolve_options
from workflows.inputs import ShardUnit, read_items
from workflows.provenance import provenance
from workflows.train.recipes import find_recipe
from workflows.train.tracking.servers import MLflow

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path for part in ("fusion", "detection", "workflows", "benchmarks") for path in (ROOT / part).rglob("*.py")
)
SECRET = "hunter2XYZ"

# Reading the source

UNPICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
RUNNING = {"eval", "exec", "compile", "__import__"}
SHELLS = {
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "commands.getoutput",
    "pty.spawn",
}
PROCESSES = {
    "subprocess.run",
    "subprocess.Popen",
    "subprocess.call",
    "subprocess.check_call",
    "subprocess.check_output",
}
LOADERS = {"yaml.BaseLoader", "yaml.SafeLoader", "yaml.CSafeLoader"}  # they make text, numbers, lists and mappings
READERS = {
    "read_pickle",
    "unsafe_load",
    "full_load",
    "load_all",
    "unsafe_load_all",
    "full_load_all",
    "extractall",
    "extract",
}


def dotted(node: ast.AST) -> str:
    """`os.path.join` for the expression that says so; "?" for what has no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def keyword(call: ast.Call, name: str) -> object:
    """The constant given for a keyword; None where it is not given, the node where it is no constant."""
    for one in call.keywords:
        if one.arg == name:
            return one.value.value if isinstance(one.value, ast.Constant) else one.value
    return None


def loader(call: ast.Call) -> str:
    """The loader that yaml.load is given."""
    given = [*call.args[1:], *(one.value for one in call.keywords if one.arg == "Loader")]
    return dotted(given[0]) if given else ""


def within_workflows(call: ast.Call) -> bool:
    """Whether import_module is given a name that begins with `workflows.`, whatever it ends with."""
    name = call.args[0]
    begin = name.values[0] if isinstance(name, ast.JoinedStr) else name
    return isinstance(begin, ast.Constant) and str(begin.value).startswith("workflows.")


def faults(source: str) -> list[str]:
    """What a file must not do, by line."""
    found, tree = [], ast.parse(source)
    own = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    safe = LOADERS | {node.name for node in own if node.bases and {dotted(base) for base in node.bases} <= LOADERS}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            names += [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            found += [f"{node.lineno}: imports {name}" for name in names if name.split(".")[0] in UNPICKLING]
            found += [f"{node.lineno}: imports {name}" for name in names if name in SHELLS]
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        last = name.rpartition(".")[2]
        if name in RUNNING or name in SHELLS:
            found.append(f"{node.lineno}: calls {name}")
        if last in READERS:
            found.append(f"{node.lineno}: calls {name}")
        if name == "torch.load" and keyword(node, "weights_only") is not True:
            found.append(f"{node.lineno}: torch.load without weights_only=True")
        if name == "yaml.load" and loader(node) not in safe:
            found.append(f"{node.lineno}: yaml.load")
        if name in ("np.load", "numpy.load") and keyword(node, "allow_pickle") is not False:
            found.append(f"{node.lineno}: np.load without allow_pickle=False")
        if last == "import_module" and not within_workflows(node):
            found.append(f"{node.lineno}: imports what a variable names")
        if keyword(node, "shell") not in (None, False):
            found.append(f"{node.lineno}: a shell")
        if name in PROCESSES and node.args and not isinstance(node.args[0], ast.List | ast.Name):
            found.append(f"{node.lineno}: {name} with a command that is no list of words")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_unpickles_or_builds_a_shell(path):
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "import cloudpickle as c", "torch.load(f)", "yaml.load(f)",
        "torch.load(f, weights_only=False)", "torch.load(f, weights_only=maybe)", "np.load(f)", "yaml.unsafe_load(f)",
        "np.load(f, allow_pickle=True)", "pd.read_pickle(f)", "os.system(x)", "subprocess.run(x, shell=True)",
        "subprocess.run(f'ls {x}')", "subprocess.Popen('ls ' + x)", "eval(x)", "exec(x)", "tar.extractall(x)",
        "subprocess.run([x], shell=maybe)", "from os import system", "yaml.load(f, yaml.Loader)",
        "class L(yaml.UnsafeLoader):\n  pass\nyaml.load(f, L)", "yaml.load(f, Loader=yaml.FullLoader)",
        "importlib.import_module(x)", "import_module(f'{x}.job')",
    ],
)  # fmt: skip
def test_the_reading_finds(line):
    assert faults(line)


def test_what_is_allowed_is_not_found():
    lines = ["yaml.load(f, yaml.BaseLoader)", "class L(yaml.SafeLoader):\n  pass\nyaml.load(f, L)", "model.eval()"]
    lines += ["yaml.safe_load(f)", "torch.load(f, weights_only=True)", "subprocess.run(['git', x])", "re.compile(x)"]
    lines += ["importlib.import_module(f'workflows.{job}.job')"]
    assert [faults(line) for line in lines] == [[]] * len(lines)


@pytest.mark.parametrize("job", ["os", "../x", "console", "inputs", "cluster.connect", "train.job"])
def test_only_jobs_are_imported_by_name(job, monkeypatch):
    """`duskfuse JOB` imports workflows.JOB, for the jobs of its table only."""
    imported = []
    monkeypatch.setattr(cli.importlib, "import_module", imported.append)
    assert cli.main([job]) == 2 and imported == []


def test_the_dashboard_listens_on_loopback_only():
    import ray

    default = inspect.signature(inspect.unwrap(ray.init)).parameters["dashboard_host"].default
    assert default in ("127.0.0.1", "localhost", "::1")
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and dotted(node.func) == "ray.init":
                given = keyword(node, "dashboard_host")
                assert given in (None, "127.0.0.1"), f"{path}:{node.lineno}"
    for path in [*ROOT.glob("*.yaml"), *ROOT.glob("docs/*.yaml")]:
        for host in re.findall(r"--dashboard-host[= ]([^\s\"',]+)", path.read_text(encoding="utf-8")):
            in_kubernetes = "KubeRay" in path.read_text(encoding="utf-8")  # there the pod's network is its own
            assert host == "127.0.0.1" or in_kubernetes, f"{path}: {host}"


# Trying: nothing is run


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


@pytest.fixture
def mark(tmp_path) -> Path:
    path = tmp_path / "it was run"
    yield path
    assert not path.exists()


def test_the_trap_works(tmp_path):
    path = tmp_path / "x"
    pickle.loads(pickle.dumps(Evil(path))).close()
    assert path.exists()


def test_weights_of_a_detector_run_nothing(tmp_path, mark):
    path = tmp_path / "evil.pt"
    torch.save({"model": Evil(mark), "ema": None, "train_args": {}}, path)
    for read in (_read_weights, load_network):
        with pytest.raises(UserError, match=r"evil\.pt"):
            read(path)
    path.write_bytes(pickle.dumps(Evil(mark)))
    for read in (_read_weights, load_network):
        with pytest.raises(UserError, match=r"evil\.pt"):
            read(path)


def test_a_checkpoint_runs_nothing(tmp_path, mark):
    model = MODELS["aenet"].build(AENetConfig())
    checkpoint.save(tmp_path / "run", "aenet", model, recipe={}, state={})
    assert checkpoint.load(tmp_path / "run").name == "aenet"
    (tmp_path / "run" / "model.safetensors").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load(tmp_path / "run")
    torch.save({"x": Evil(mark)}, tmp_path / "run" / "model.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load(tmp_path / "run")


@pytest.mark.parametrize("name", ["../../etc", "/etc", "os", "__class__", "aenet/../../x"])
def test_the_model_of_a_checkpoint_is_one_of_the_table(tmp_path, name):
    for file, content in (("config.json", {"format": 1, "model": name}), ("state.json", {}), ("model.safetensors", {})):
        (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match="unknown model"):
        checkpoint.load(tmp_path)


def test_yaml_makes_no_objects(tmp_path, mark):
    text = f"!!python/object/apply:builtins.open ['{mark}', 'w']\n"
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match="not a recipe"):
        find_recipe(str(tmp_path / "recipe.yaml"))
    with pytest.raises(BadLabels):
        read_names(f"names: {text}", "data.yaml")


def test_arrays_of_a_niqe_model_are_numbers(tmp_path, mark):
    data = io.BytesIO()
    np.savez(data, mean=np.array([Evil(mark)], dtype=object))
    (tmp_path / "model.npz").write_bytes(data.getvalue())
    with pytest.raises(UserError):
        niqe.load_pristine(tmp_path / "model.npz")


# Trying: nothing leaves its folder


def row(**changes: object) -> dict:
    grey, colour = bytes(16 * 16), bytes(16 * 16 * 3)
    base = {"key": "a", "split": "test", "source": "x", "degradation": "haze", "level": "2", "parameters": "{}"}
    base |= {"height": 16, "width": 16, "visible": colour, "infrared": grey}
    base |= {"degraded_visible": colour, "degraded_infrared": grey, "boxes": [], "classes": [], "notes": []}
    return base | changes


OUTSIDE = ["../x", "/etc/x", "..", ".", "a/../../x", "a/b", "", "a\0b"]


@pytest.mark.parametrize("name", ["key", "degradation", "level", "split"])
@pytest.mark.parametrize("text", OUTSIDE)
def test_rows_of_a_corpus_name_no_files_elsewhere(tmp_path, name, text):
    """`duskfuse fuse --corpus` writes DEGRADATION/LEVEL/KEY.png; a corpus may come from anybody."""
    path = tmp_path / "shard.parquet"
    pq.write_table(pa.Table.from_pylist([row(**{name: text})], schema=corpus.SCHEMA), path)
    with pytest.raises(UserError, match=f"the {name} .* no name"):
        list(read_items(ShardUnit(str(path), 0)))


def test_rows_with_usual_names_are_read(tmp_path):
    path = tmp_path / "shard.parquet"
    usual = row(key="LLVIP_train 000.1-ä", degradation="haze+noise", level="2+3")
    pq.write_table(pa.Table.from_pylist([usual], schema=corpus.SCHEMA), path)
    (item,) = read_items(ShardUnit(str(path), 0))
    assert (item.folder, item.key) == ("haze+noise/2+3", "LLVIP_train 000.1-ä")


@pytest.mark.parametrize("name", ["../x.parquet", "/etc/passwd", "..", "a/b.parquet", ".hidden", 5, None])
def test_a_manifest_names_no_files_elsewhere(tmp_path, name):
    data = {"schema": corpus.SCHEMA_VERSION, "content_sha256": "", "shards": [{"name": name}]}
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"outside its folder|is damaged"):
        corpus.open_corpus(str(tmp_path))


@pytest.mark.parametrize("key", [*OUTSIDE[:4], "..%2fx", "C:\\x"])
def test_a_data_set_for_yolo_stays_in_its_folder(tmp_path, key):
    boxes = truth(np.array([[2, 2, 20, 20]], np.float32), ("car",), ("car",), 32, 32)
    image = np.zeros((32, 32), np.uint8)
    write_dataset(tmp_path / "set", [("train", key, image, boxes), ("val", key, image, boxes)], ("car",))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 7 and all((tmp_path / "set") in path.parents for path in written)
    assert len(list((tmp_path / "set" / "images" / "train").iterdir())) == 1


@pytest.mark.parametrize("name", ["..", "../x", "a/b", ".x"])
def test_methods_and_tasks_are_called_by_names(tmp_path, name):
    args = evolve_options.Args(
        pairs="scenes:4", out=str(tmp_path / "out"), methods="average", fused=(f"{name}={tmp_path}",)
    )
    with pytest.raises(UserError, match="method name"):
        method_library.library(args)
    with pytest.raises(UserError, match="--tasks"):
        commonness_tasks.parse_tasks(f"{name}=scenes:4,multifocus:4")


def test_links_out_of_an_image_folder_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    image = encode_png(np.zeros((32, 32), np.uint8))
    (outside / "a.png").write_bytes(image)
    for side in ("visible", "infrared"):
        folder = tmp_path / "set" / side
        folder.mkdir(parents=True)
        (folder / "b.png").write_bytes(image)
        (folder / "a.png").symlink_to(outside / "a.png")
        (folder / "more").symlink_to(outside)
    found = find_pairs(str(tmp_path / "set"))
    assert [ref.key for ref in found.refs] == ["b"] and len(found.rejected) >= 1


@pytest.mark.parametrize("part", ["..", "a?b", "a#b", "a/../b", "a%2e%2e"])
def test_parts_of_an_address_stay_parts_of_the_key(part):
    """On S3 `..` is a name like any other: a key never leads to another bucket."""
    address = s3.parse_address(storage.join("s3://bucket/root", part))
    assert address.bucket == "bucket" and address.key == f"root/{part}" and address.options == ()


# Trying: no secrets are told

TOLD = {
    f"s3://KEY:{SECRET}@bucket/x": "s3://***@bucket/x",
    f"s3://KEY:ab/{SECRET}+=@bucket/x": "s3://***@bucket/x",
    f"https://user:{SECRET}@host:5000/a": "https://***@host:5000/a",
    f"https://{SECRET}@host/a": "https://***@host/a",
    f"https://host/x?X-Amz-Signature={SECRET}&y=1": "https://host/x?X-Amz-Signature=***&y=1",
    f"s3://b/x?region=eu&secret_key={SECRET}": "s3://b/x?region=eu&secret_key=***",
    f"WANDB_API_KEY={SECRET} duskfuse": "WANDB_API_KEY=*** duskfuse",
    f"{{'secret_key': '{SECRET}', 'x': 1}}": "{'secret_key': '***', 'x': 1}",
    f"Authorization: Bearer {SECRET}": "Authorization: Bearer ***",
}  # fmt: skip


@pytest.mark.parametrize("text", TOLD)
def test_secrets_are_masked(text):
    assert mask_secrets(text) == TOLD[text]
    assert SECRET not in str(UserError(f"no corpus at {text}"))
    assert mask_secrets_in({"a": [text, 3], "token": 5}) == {"a": [TOLD[text], 3], "token": 5}


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/user@home/x", "http://host:5000/a@b", "a@b.c", "--recipe.model.top-k 4", "the token is missing: x",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE).", "abfs://container@account/x",
    ],
)  # fmt: skip
def test_other_text_stays_as_it_is(text):
    assert mask_secrets(text) == text


def test_a_stamp_has_the_command_without_secrets():
    words = ["train", "x", "--mlflow", f"https://user:{SECRET}@host", "--out", f"s3://K:{SECRET}@b/x", "--epochs", "3"]
    text = json.dumps(provenance(words))
    assert SECRET not in text and "--mlflow" in text and "--epochs 3" in text and "host" in text


@pytest.mark.parametrize(
    "where", [f"s3://KEY:{SECRET}@bucket/x", f"s3://KEY:a/{SECRET}@bucket/x", f"s3://{SECRET}@b/x"]
)
@pytest.mark.parametrize("read", [storage.exists, storage.read_bytes, storage.resolve, storage.list_files])
def test_addresses_take_no_keys(where, read):
    """Addresses are kept in manifests, settings and run.json; so a key in one is refused before anything is written."""
    with pytest.raises(UserError, match="AWS_ACCESS_KEY_ID") as error:
        read(where)
    assert SECRET not in str(error.value)
    with pytest.raises(UserError, match="do not belong"):
        storage.resolve(f"hdfs://user:{SECRET}@host/x")


def test_a_job_with_a_key_in_an_address_leaves_nothing_behind(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = f"s3://KEY:{SECRET}@bucket/pairs"
    assert cli.main(["corpus", "--pairs", bad, "--out", str(tmp_path / "out"), "--preset", "noise2"]) == 2
    assert cli.main(["train", "tgecnet-restore-tiny", "--corpus", bad, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert SECRET not in told.out + told.err and "AWS_SECRET_ACCESS_KEY" in told.err
    kept = [Path(folder, file) for folder, _, files in os.walk(tmp_path) for file in files]
    assert not any(SECRET.encode() in path.read_bytes() for path in kept)


def test_what_a_training_shows_and_keeps_has_no_password(tmp_path):
    """The URI of MLflow is in no settings, and the callback does not tell it when it is printed."""
    tracker = MLflow(str(tmp_path), {}, 1, f"https://user:{SECRET}@host")
    assert SECRET not in repr(tracker) and not list(tmp_path.iterdir())
    tracker.write_run_id("abc")
    assert SECRET not in (tmp_path / "mlflow.json").read_text()
