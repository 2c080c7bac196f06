"""A stage depends on the code that computes its outs, and on no code that only carries them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from components.training.plan import CODE
from tests.architecture.first_party import ROOT, find_reachable, is_in, list_modules

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

# Code that a stage runs but that does not determine the bytes of its outs: a change reruns nothing.
CARRIERS = {
    "components/__init__.py": "folders of caches",
    "components/console.py": "messages and progress",
    "components/dvc_cli.py": "moves data, whose digests are checked",
    "components/errors.py": "exception types",
    "components/files.py": "writes the bytes that it is given",
    "components/git_cli.py": "the commit goes to MLflow, not into an out",
    "components/orchestration": "runs the loop on workers; the loop's result does not depend on it",
    "components/params": "the stages depend on its values in data/params.yaml",
    "components/paths.py": "locations",
    "components/provenance.py": "its facts go to MLflow; the fingerprint names a run",
    "components/ray_session": "decides where work runs",
    "components/records/base.py": "reads and writes records; their fields are in the other modules",
    "components/registry": "stores a version, which is verified against its digest",
    "components/storage.py": "stores the bytes that it is given",
    "components/tracking": "MLflow runs, which are no out",
    "pipelines/train.py": "starts Ray, follows the training and writes what it returned",
}
# Carriers that determine the outs of a stage after all.
COMPUTES = {
    "params": {"components/params"},
}


def _code_deps(stage: str) -> set[str]:
    prefixes = ("components/", "pipelines/")
    return {dep for dep in STAGES[stage]["deps"] if dep.startswith(prefixes)}


def _start(stage: str) -> set[Path]:
    return list_modules([*_code_deps(stage), f"pipelines/{stage}.py"])


@pytest.mark.parametrize("stage", STAGES)
def test_every_import_of_a_stage_is_a_dependency_or_a_carrier(stage: str) -> None:
    known = _code_deps(stage) | CARRIERS.keys()
    unknown = {str(p) for p in find_reachable(_start(stage), CARRIERS) if not is_in(p, known)}
    assert not unknown, "name it in dvc.yaml, or here as a carrier"


@pytest.mark.parametrize("stage", STAGES)
def test_every_code_dependency_is_imported(stage: str) -> None:
    imports = find_reachable([Path(f"pipelines/{stage}.py")])
    for dep in _code_deps(stage):
        assert any(is_in(path, {dep}) for path in imports), f"{stage} does not import {dep}"


@pytest.mark.parametrize("stage", STAGES)
def test_no_carrier_is_a_dependency(stage: str) -> None:
    deps = _code_deps(stage) - COMPUTES.get(stage, set())
    assert not {dep for dep in deps if is_in(Path(dep), CARRIERS)}


def test_every_carrier_exists_and_is_used() -> None:
    imports = find_reachable([Path(f"pipelines/{stage}.py") for stage in STAGES])
    for carrier in CARRIERS:
        assert any(is_in(path, {carrier}) for path in imports), carrier


def test_the_fingerprint_of_a_training_covers_the_code_that_train_depends_on() -> None:
    assert set(CODE) == _code_deps("train")


def test_files_beside_the_code_belong_to_a_folder_that_is_a_dependency() -> None:
    """Such a file is, for example, the template of a report."""
    deps = {ROOT / dep for stage in STAGES.values() for dep in stage["deps"]}
    files = [path for room in ("components", "pipelines") for path in (ROOT / room).rglob("*.*")]
    others = [path for path in files if path.suffix not in (".py", ".pyc")]
    assert others
    assert all(deps.intersection(path.parents) for path in others)
