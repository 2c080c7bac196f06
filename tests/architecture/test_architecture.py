"""Rules of the architecture: layers, stages, parameters and commands."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.params import Params, Section, load_params

ROOT = Path(__file__).resolve().parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
COMMANDS = {path.stem for path in (ROOT / "pipelines").glob("[!_]*.py")}
RESOLVED = "data/params.yaml"

# Keys of a stage's section that do not determine its outs, with the reason.
NOT_IN_OUTS = {
    "preprocess.num_workers": "the result is the same for any number",
    "evaluate.num_workers": "the result is the same for any number",
    "train.num_workers": "counts through the micro_batch_size of each model",
    "train.global_batch_size": "counts through the global_batch_size of each model",
    "train.max_failures": "restarts continue from a checkpoint",
    "train.images": "the place of the same images",
    "train.checkpoint": "a resumed training gives the same weights",
    "train.watchdog_s": "a restart gives the same weights",
    "train.start_timeout_s": "a restart gives the same weights",
}


def parameter_dependencies(stage: str) -> set[str]:
    """Return the keys of data/params.yaml on which a stage depends."""
    files = STAGES[stage].get("params", [])
    assert all(set(file) == {RESOLVED} for file in files), "params.yaml lacks what has a default"
    return {key for file in files for key in file[RESOLVED]}


def test_layers_import_downwards_only() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("stage", STAGES)
def test_stage_runs_its_module_with_all_paths_as_arguments(stage: str) -> None:
    command = STAGES[stage]["cmd"]
    assert command.startswith(f"python -m pipelines.{stage} ")
    assert "|" not in command, "a pipe hides failures"
    outs = [
        out if isinstance(out, str) else next(iter(out))
        for kind in ("outs", "metrics", "plots")
        for out in STAGES[stage].get(kind, [])
    ]
    arguments = re.findall(r"--\w+ (\S+)", command)
    for path in outs:
        assert any(path == a or path.startswith(a + "/") for a in arguments), path


@pytest.mark.parametrize("stage", sorted(set(STAGES) - {"params"}))
def test_stage_reads_the_resolved_parameters(stage: str) -> None:
    assert f" --params {RESOLVED} " in STAGES[stage]["cmd"]


def test_every_section_of_the_parameters_is_a_command() -> None:
    sections = {field.alias or name: field for name, field in Params.model_fields.items()}
    del sections["seed"]
    assert set(sections) <= COMMANDS
    for name, field in sections.items():
        assert isinstance(field.annotation, type)
        assert field.annotation.__name__ == name.capitalize()


@pytest.mark.parametrize("stage", ["preprocess", "augment", "train", "evaluate"])
def test_stage_depends_on_every_parameter_that_determines_its_outs(stage: str) -> None:
    section = Params.model_fields[stage].annotation
    assert isinstance(section, type)
    assert issubclass(section, Section)
    keys = {f"{stage}.{name}" for name in section.model_fields} - NOT_IN_OUTS.keys()
    dependencies = parameter_dependencies(stage)
    dependencies |= {"train.models"} if "train.models.${item.model}" in dependencies else set()
    assert stage in dependencies or keys <= dependencies
    assert not NOT_IN_OUTS.keys() & dependencies


@pytest.mark.parametrize("stage", STAGES)
def test_parameter_dependencies_exist(stage: str) -> None:
    resolved = load_params(ROOT / "tests" / "params.yaml").resolved()
    for key in parameter_dependencies(stage):
        value: Any = resolved
        for name in key.replace("${item.model}", "cnn").split("."):
            assert name in value, f"DVC refuses to run: {key} is not in {RESOLVED}"
            value = value[name]


def test_every_command_is_listed_with_its_summary() -> None:
    command = [sys.executable, "-m", "pipelines"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w.*\.", done.stdout, re.M), done.stdout


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [f"pipelines.{command}", "--help"])
    monkeypatch.delitem(sys.modules, f"pipelines.{command}", raising=False)
    with pytest.raises(SystemExit) as ended:
        # In this process, because importing the libraries anew takes seconds for each command.
        runpy.run_module(f"pipelines.{command}", run_name="__main__")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("setup", "repro", "test", "check", "ui", "lock", "help"):
        assert f"make {target} " in done.stdout


def test_lock_has_hashes_and_no_addresses() -> None:
    text = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^[a-z0-9][a-z0-9._-]*(?:\[[^\]]*\])?==", text, re.M)
    assert len(pins) > 100
    assert text.count("--hash=sha256:") >= len(pins)
    assert "://" not in text
