"""cluster.yaml, kuberay/rayjob.yaml, Dockerfile and what `working_dir` uploads: checked by Ray's own code, no cloud."""

from __future__ import annotations

import re
import shlex
import tomllib
import zipfile
from fnmatch import fnmatch
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


def version_of(package: str) -> str:
    return re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def start_command(commands: list[str]) -> tuple[dict[str, str], list[str]]:
    """Environment and words of the `ray start` among shell commands."""
    (line,) = (command for command in commands if "ray start" in command)
    words = shlex.split(line.rpartition(";")[2])
    split = words.index("ray")
    return dict(word.split("=", 1) for word in words[:split]), words[split:]


def test_the_launcher_takes_it(launcher):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(launcher | {"cluster_synced_files": []})
    validate_config(prepare_config(launcher))


def test_its_schema_is_one_that_refuses(launcher):
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    launcher["available_node_types"]["gpu_spot"]["max_worker"] = 6
    with pytest.raises(ValidationError, match="max_worker"):
        validate_config(prepare_config(launcher))


def launched(launcher: dict, demands: list[dict], failed: tuple[str, ...] = ()) -> dict[str, int]:
    """The nodes that Ray's autoscaler starts for `demands`, after launches of `failed` types have failed."""
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
    environment, _ = start_command(launcher["head_start_ray_commands"])
    assert environment["RAY_enable_autoscaler_v2"] == "1"


def test_nodes_are_what_the_comments_say(launcher):
    types = launcher["available_node_types"]
    head = types[launcher["head_node_type"]]
    assert head["resources"] == {"CPU": 0} and "InstanceMarketOptions" not in head["node_config"]
    for name, node in types.items():
        config = node["node_config"]
        assert ("InstanceMarketOptions" in config) == name.endswith("_spot")
        assert (
            config["IamInstanceProfile"] == {"Name": "duskfuse"} and config["ImageId"] == head["node_config"]["ImageId"]
        )
    for kind in ("cpu", "gpu"):
        spot, on_demand = types[f"{kind}_spot"], types[f"{kind}_on_demand"]
        assert spot["resources"] == on_demand["resources"] and spot["priority"] > on_demand["priority"]
        assert spot["node_config"]["InstanceType"] == on_demand["node_config"]["InstanceType"]
        assert spot["min_workers"] == on_demand["min_workers"] == 0
    assert types["gpu_spot"]["resources"]["GPU"] * types["gpu_spot"]["max_workers"] == GPUS
    assert launcher["max_workers"] == sum(node.get("max_workers", 0) for node in types.values())


def test_head_and_workers_start_alike_and_the_dashboard_is_on_loopback(launcher):
    head, words = start_command(launcher["head_start_ray_commands"])
    worker, _ = start_command(launcher["worker_start_ray_commands"])
    head.pop("RAY_enable_autoscaler_v2")
    assert head == worker
    assert head["RAY_AUTH_MODE"] == "token" and head["RAY_USAGE_STATS_ENABLED"] == "0"
    assert head["AWS_REGION"] == launcher["provider"]["region"]
    assert "--dashboard-host=127.0.0.1" in words and "--num-cpus=0" in words


def test_setup_installs_this_project_with_its_python_and_versions(launcher):
    setup = "\n".join(launcher["setup_commands"])
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert wanted == ">=3.11" and "--python 3.11" in setup
    (mount,) = (remote for remote, local in launcher["file_mounts"].items() if local == ".")
    assert f"--constraint {mount}/constraints.txt --editable {mount}" in setup
    kept = [path for path in ("constraints.txt", "pyproject.toml", "README.md", "workflows", "fusion", "detection")]
    assert not [path for path in kept if any(fnmatch(path, pattern) for pattern in launcher["rsync_exclude"])]


def test_no_keys_in_files():
    for name in ("cluster.yaml", "kuberay/rayjob.yaml", "Dockerfile", ".rayignore", ".dockerignore"):
        text = (ROOT / name).read_text()
        assert not re.search(r"AKIA|SECRET_ACCESS_KEY|ACCESS_KEY_ID|BEGIN [A-Z ]*PRIVATE KEY|RAY_AUTH_TOKEN=", text), (
            name
        )


def test_the_kubernetes_job_agrees_with_the_launcher(launcher, rayjob):
    assert (rayjob["apiVersion"], rayjob["kind"]) == ("ray.io/v1", "RayJob")
    cluster = rayjob["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    (worker,), (head,) = (part["template"]["spec"]["containers"] for part in (group, cluster["headGroupSpec"]))
    gpu = launcher["available_node_types"]["gpu_spot"]

    limits = worker["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == gpu["resources"]["GPU"] and limits == worker["resources"]["requests"]
    assert int(limits["cpu"]) < gpu["resources"]["CPU"]  # Kubernetes keeps some of the node for itself
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == gpu["max_workers"] == GPUS
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert worker["image"] == head["image"]

    environment, _ = start_command(launcher["worker_start_ray_commands"])
    assert cluster["authOptions"]["mode"] == environment.pop("RAY_AUTH_MODE")  # the operator sets the variable
    for container in (worker, head):
        assert {one["name"]: one["value"] for one in container["env"]} == environment


def test_the_kubernetes_jobs_command_is_one_that_runs(rayjob):
    from fusion.training.recipes import RECIPES

    words = shlex.split(rayjob["spec"]["entrypoint"])
    assert words[:5] == ["env", f"DUSKFUSE_GPUS={GPUS}", "python", "-m", "workflows.train"]
    recipe = RECIPES[words[5]]()
    workers = int(words[words.index("--workers") + 1])
    assert workers == GPUS and recipe.batch_size % workers == 0
    assert {"--corpus", "--out"} <= set(words)


def test_one_version_of_ray_everywhere(rayjob):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = (one for one in project["dependencies"] if one.startswith("ray["))
    ray = version_of("ray")
    assert f">={'.'.join(ray.split('.')[:2])}," in wanted
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == ray
    image = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    assert image.endswith(f"duskfuse:{project['version']}")


def test_the_image_is_built_from_the_constraints():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert "FROM python:3.11-slim" in lines
    assert any("--constraint constraints.txt" in line for line in lines)
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    assert copied == set(let_in) and all((ROOT / name).exists() for name in copied)


def packed(root: Path, folder: Path) -> zipfile.ZipFile:
    """What `ray job submit --working-dir ROOT` uploads."""
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
    kept = ["workflows/train.py", "fusion/weights/aenet/model.safetensors", "detection/yolo.py"]
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
