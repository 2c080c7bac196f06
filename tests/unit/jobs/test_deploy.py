"""The files in `deploy/` against the schemas of KubeRay and Ray, and against the runbook."""

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
import ray.autoscaler
import yaml
from ray.autoscaler import sdk

from components.jobs import runner

ROOT = Path(__file__).resolve().parents[3]
RAYJOB = yaml.safe_load((ROOT / "deploy/rayjob.yaml").read_text())
RAY_UP = yaml.safe_load((ROOT / "deploy/ray-up.yaml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


def strict(schema: Any) -> Any:
    """Return a JSON schema that refuses unknown fields, which Kubernetes drops silently."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict_schema = {key: strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        strict_schema = {"type": ["integer", "string"]}
    elif (
        "properties" in schema
        and schema.get("type") == "object"
        and "x-kubernetes-preserve-unknown-fields" not in schema
    ):
        strict_schema["additionalProperties"] = False
    return strict_schema


@pytest.fixture(scope="module")
def rayjob_validator() -> Any:
    """A validator of the schema `ray.io_rayjobs.yaml`, v1, of KubeRay at feeaf72f (Apache-2.0).

    Its descriptions were removed. `jsonschema.validate` would also check the schema itself, which
    takes seconds.
    """
    packed = (ROOT / "tests/golden/rayjob-v1.schema.json.gz").read_bytes()
    schema = strict(json.loads(gzip.decompress(packed)))
    return jsonschema.validators.validator_for(schema)(schema)


@pytest.fixture(scope="module")
def ray_up_schema() -> Any:
    """The schema of cluster files that is shipped with Ray and used by `ray up`."""
    [folder] = ray.autoscaler.__path__
    return json.loads((Path(folder) / "ray-schema.json").read_text())


def test_rayjob_matches_the_schema_of_kuberay(rayjob_validator: Any) -> None:
    rayjob_validator.validate(RAYJOB)
    wrong = copy.deepcopy(RAYJOB)
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 2
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        rayjob_validator.validate(wrong)


def test_rayjob_starts_the_runner_for_all_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(RAYJOB["spec"]["entrypoint"])
    module = words.index("-m")
    assert importlib.import_module(words[module + 1]) is runner
    calls: list[Any] = []
    monkeypatch.setattr(runner, "run", lambda *args: calls.append(args) or 0)
    monkeypatch.setattr("os.environ", {})
    with pytest.raises(SystemExit, match="0"):
        runner.main(words[module + 2 :])
    assert calls == [(RAYJOB["spec"]["jobId"], None, [])]


def test_rayjob_has_token_authentication_gpu_workers_and_no_secrets() -> None:
    cluster = RAYJOB["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    [worker] = [c for g in cluster["workerGroupSpecs"] for c in g["template"]["spec"]["containers"]]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    for container in (worker, *cluster["headGroupSpec"]["template"]["spec"]["containers"]):
        names = {item["name"] for item in container["env"]}
        assert {"MLFLOW_TRACKING_URI", "KILN_STORAGE"} <= names
        assert not any(re.search("SECRET|PASSWORD|TOKEN", name) for name in names), (
            "secrets come from a Secret"
        )


def test_cluster_file_matches_the_schema_of_ray(ray_up_schema: Any) -> None:
    jsonschema.validate(sdk.fillout_defaults(copy.deepcopy(RAY_UP)), ray_up_schema)
    wrong = copy.deepcopy(RAY_UP) | {"idle_timeout": 5}
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        jsonschema.validate(sdk.fillout_defaults(wrong), ray_up_schema)


def test_cluster_file_has_consistent_node_types() -> None:
    # `ray up` checks these too, beyond the schema.
    node_types = RAY_UP["available_node_types"]
    assert RAY_UP["head_node_type"] in node_types
    min_workers = sum(node_type.get("min_workers", 0) for node_type in node_types.values())
    assert min_workers <= RAY_UP["max_workers"]


def test_cluster_file_has_spot_gpu_workers_and_token_authentication() -> None:
    gpu = RAY_UP["available_node_types"]["gpu"]["node_config"]
    assert gpu["InstanceMarketOptions"] == {"MarketType": "spot"}
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in " ".join(RAY_UP[commands])


def test_rayjob_uses_the_locked_version_of_ray() -> None:
    assert f"\nray=={RAYJOB['spec']['rayClusterSpec']['rayVersion']} " in LOCK


def test_runbook_documents_every_setting_and_command_line_option() -> None:
    runbook = (ROOT / "docs/how-to/cluster.md").read_text()
    code = "".join(
        path.read_text()
        for package in ("components", "pipelines")
        for path in (ROOT / package).rglob("*.py")
    )
    settings = set(re.findall(r"\bKILN_[A-Z]+\b", code)) - {"KILN_COMMIT", "KILN_DIRTY"}
    assert settings == set(re.findall(r"\bKILN_[A-Z]+\b", runbook))
    options = set(
        re.findall(r'add_argument\("(--[a-z-]+)"', (ROOT / "pipelines/submit.py").read_text())
    )
    assert options <= set(re.findall(r"--[a-z-]+", runbook))
