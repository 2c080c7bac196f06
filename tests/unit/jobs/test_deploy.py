"""The configurations to start from fit their consumers: KubeRay's schema, Ray's own check of a cluster file."""

from __future__ import annotations

import copy
import gzip
import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from components.jobs import runner

ROOT = Path(__file__).resolve().parents[3]
RAYJOB = yaml.safe_load((ROOT / "deploy/rayjob.yaml").read_text())
RAY_UP = yaml.safe_load((ROOT / "deploy/ray-up.yaml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


def strict(schema: Any) -> Any:
    """Kubernetes drops fields that it does not know without a word: here they are errors."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        made = {"type": ["integer", "string"]}
    elif "properties" in schema and schema.get("type") == "object" and "x-kubernetes-preserve-unknown-fields" not in schema:
        made["additionalProperties"] = False
    return made


@pytest.fixture(scope="module")
def rayjob_schema() -> Any:
    """`ray.io_rayjobs.yaml`, v1, of KubeRay at feeaf72f (Apache-2.0), descriptions removed."""
    return strict(json.loads(gzip.decompress((ROOT / "tests/golden/rayjob-v1.schema.json.gz").read_bytes())))


def test_the_rayjob_fits_kuberays_schema(rayjob_schema: Any) -> None:
    jsonschema.validate(RAYJOB, rayjob_schema)
    wrong = copy.deepcopy(RAYJOB)
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 2
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        jsonschema.validate(wrong, rayjob_schema)


def test_the_rayjob_runs_what_submit_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(RAYJOB["spec"]["entrypoint"])
    module = words.index("-m")
    assert importlib.import_module(words[module + 1]) is runner
    seen: list[Any] = []
    monkeypatch.setattr(runner, "run", lambda *args: seen.append(args) or 0)
    monkeypatch.setattr("os.environ", {})
    with pytest.raises(SystemExit, match="0"):
        runner.main(words[module + 2 :])
    assert seen == [(RAYJOB["spec"]["jobId"], None, [])]


def test_the_rayjobs_nodes_are_what_the_runbook_promises() -> None:
    cluster = RAYJOB["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    [worker] = [c for g in cluster["workerGroupSpecs"] for c in g["template"]["spec"]["containers"]]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    for container in (worker, *cluster["headGroupSpec"]["template"]["spec"]["containers"]):
        names = {item["name"] for item in container["env"]}
        assert {"MLFLOW_TRACKING_URI", "KILN_STORAGE"} <= names
        assert not any(re.search("SECRET|PASSWORD|TOKEN", name) for name in names), "secrets come from a Secret"


def test_ray_takes_the_cluster_file() -> None:
    validate_config(prepare_config(copy.deepcopy(RAY_UP)))
    wrong = copy.deepcopy(RAY_UP) | {"idle_timeout": 5}
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config(wrong))
    gpu = RAY_UP["available_node_types"]["gpu"]["node_config"]
    assert gpu["InstanceMarketOptions"] == {"MarketType": "spot"}
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in " ".join(RAY_UP[commands])


def test_versions_are_those_of_the_lock() -> None:
    assert f"\nray=={RAYJOB['spec']['rayClusterSpec']['rayVersion']} " in LOCK


def test_the_runbook_names_every_setting_and_command_line_option_that_there_is() -> None:
    runbook = (ROOT / "docs/cluster.md").read_text()
    code = "".join(path.read_text() for package in ("components", "pipelines") for path in (ROOT / package).rglob("*.py"))
    settings = set(re.findall(r"\bKILN_[A-Z]+\b", code)) - {"KILN_COMMIT", "KILN_DIRTY"}
    assert settings == set(re.findall(r"\bKILN_[A-Z]+\b", runbook))
    options = set(re.findall(r'add_argument\("(--[a-z-]+)"', (ROOT / "pipelines/submit.py").read_text()))
    assert options <= set(re.findall(r"--[a-z-]+", runbook))
