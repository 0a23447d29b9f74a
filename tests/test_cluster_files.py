"""cluster.yaml, kuberay/rayjob.yaml, Dockerfile and what `working_dir` uploads: checked without a cloud."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import workflows  # noqa: F401  sets Ray's environment before ray is imported

ROOT = Path(__file__).parent.parent
GPUS = 6


@pytest.fixture
def launcher() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture
def rayjob() -> dict:
    return yaml.safe_load((ROOT / "kuberay" / "rayjob.yaml").read_text())


def test_the_launcher_takes_it_and_would_not_take_a_mistake(launcher):
    import ray
    from jsonschema import ValidationError, validate

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    validate(launcher, schema)
    launcher["available_node_types"]["gpu_spot"]["max_worker"] = 6
    with pytest.raises(ValidationError, match="max_worker"):
        validate(launcher, schema)


def launched(launcher: dict, demands: list[dict], failed: tuple[str, ...] = ()) -> dict[str, int]:
    """The nodes that Ray's autoscaler starts for `demands`, after launches of `failed` types have failed."""
    pytest.importorskip("ray.autoscaler.v2.scheduler", reason="Ray's own, without a promise to stay")
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    config = AutoscalingConfig(launcher, skip_content_hash=True)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=launcher["max_workers"] + 1,
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(one) for one in demands]),
        cloud_resource_availabilities=dict.fromkeys(failed, 0.0),
        recoverable_resource_availabilities=dict.fromkeys(failed, 0.0),
    )
    reply = ResourceDemandScheduler(event_logger=None).schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def test_spot_first_and_on_demand_when_there_is_none(launcher):
    training = [{"CPU": 1, "GPU": 1}] * GPUS
    assert launched(launcher, training) == {"gpu_spot": GPUS}
    assert launched(launcher, training, failed=("gpu_spot",)) == {"gpu_on_demand": GPUS}
    corpus = [{"CPU": 1}] * 32
    assert launched(launcher, corpus) == {"cpu_spot": 2}  # no GPU is started for it
    assert launched(launcher, corpus, failed=("cpu_spot",)) == {"cpu_on_demand": 2}
    # only the newer autoscaler knows priorities
    assert any("RAY_enable_autoscaler_v2=1" in command for command in launcher["head_start_ray_commands"])


def test_no_keys_in_files():
    for name in ("cluster.yaml", "kuberay/rayjob.yaml", "Dockerfile", ".rayignore", ".dockerignore"):
        text = (ROOT / name).read_text()
        assert not re.search(r"AKIA|SECRET_ACCESS_KEY|ACCESS_KEY_ID|BEGIN [A-Z ]*PRIVATE KEY|RAY_AUTH_TOKEN=", text), (
            name
        )


def test_the_kubernetes_jobs_command_is_one_that_is_taken(rayjob):
    """Its options are those of today, and its workers share the batch."""
    from workflows.cli import read_options

    words = shlex.split(rayjob["spec"]["entrypoint"])
    assert words[:5] == ["env", f"DUSKFUSE_GPUS={GPUS}", "python", "-m", "workflows.train"]
    options = read_options("train", words[5:])
    assert options.workers == GPUS and options.recipe.batch_size % options.workers == 0


def test_one_version_of_ray_everywhere(rayjob):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = (one for one in project["dependencies"] if one.startswith("ray["))
    ray = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert f">={'.'.join(ray.split('.')[:2])}," in wanted
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == ray
    image = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    assert image.endswith(f"duskfuse:{project['version']}")


def test_what_the_image_copies_is_there_and_let_in():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    assert copied == set(let_in) and all((ROOT / name).exists() for name in copied)


def packed(root: Path, folder: Path) -> zipfile.ZipFile:
    """What `ray job submit --working-dir ROOT` uploads."""
    pytest.importorskip("ray._private.runtime_env.packaging", reason="Ray's own, without a promise to stay")
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    target = folder / "package.zip"
    create_package(str(root), target, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    return zipfile.ZipFile(target)


def test_working_dir_uploads_little_and_all_that_a_job_needs(tmp_path):
    package = packed(ROOT, tmp_path)
    names = set(package.namelist())
    assert sum(item.file_size for item in package.infolist()) < 3_000_000
    needed = {
        path.relative_to(ROOT).as_posix()
        for name in ("workflows", "fusion", "detection")
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == needed | {"pyproject.toml"}
    assert {"fusion/weights/aenet/model.safetensors", "fusion/metrics/niqe_pristine.json"} <= names


def test_whatever_lies_in_a_checkout_stays_there(tmp_path):
    root = tmp_path / "checkout"
    for name in (".rayignore", ".gitignore", "pyproject.toml"):
        root.mkdir(exist_ok=True)
        (root / name).write_bytes((ROOT / name).read_bytes())
    kept = ["workflows/train/job.py", "fusion/weights/aenet/model.safetensors", "detection/load.py"]
    left = [
        ".git/HEAD",
        ".venv/bin/python",
        "demo/report.html",
        "runs/a/model.safetensors",
        "corpus/train-0.parquet",
        "data/visible/a.png",
        "fusion/__pycache__/x.pyc",
        ".env",
        "secrets.txt",
        "tests/test_a.py",
    ]
    for name in kept + left:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    assert set(packed(root, tmp_path).namelist()) == {*kept, "pyproject.toml"}
