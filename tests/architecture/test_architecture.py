"""The rules of the house, enforced."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.params import Params, Train, load_params, reference

ROOT = Path(__file__).resolve().parents[2]
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
VERBS = {path.stem for path in (ROOT / "pipelines").glob("[!_]*.py")}


def test_imports_go_one_way() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("stage", DVC)
def test_a_stage_is_its_module_and_gets_every_path_that_it_is_said_to_use(stage: str) -> None:
    cmd = DVC[stage]["cmd"]
    assert cmd.startswith(f"python -m pipelines.{stage} ")
    assert "|" not in cmd, "a pipe hides failures"
    outs = [o if isinstance(o, str) else next(iter(o)) for key in ("outs", "metrics", "plots") for o in DVC[stage].get(key, [])]
    arguments = re.findall(r"--\w+ (\S+)", cmd)
    for path in outs:
        assert any(path == a or path.startswith(a + "/") for a in arguments), f"{path} is not below any argument of the command"


def test_every_section_of_the_parameters_is_a_verb_with_its_schema_class() -> None:
    schema = {field.alias or name: field.annotation for name, field in Params.model_fields.items()}
    assert set(PARAMS) <= set(schema)
    for section, kind in schema.items():
        if section != "seed":
            assert section in VERBS
            assert kind.__name__ == section.capitalize()  # type: ignore[union-attr]


def test_train_depends_on_every_parameter_that_decides_the_weights() -> None:
    # The others decide how a training survives and where it runs. The number of workers counts
    # only through the micro-batches, which are resolved for each model.
    others = {"max_failures", "images", "checkpoint", "watchdog_s", "start_timeout_s", "models"}
    others |= {"num_workers", "global_batch_size"}
    own = {f"train.{name}" for name in Train.model_fields if name not in others}
    (depends,) = DVC["train"]["params"]
    assert set(depends["data/params.yaml"]) == own | {"seed", "train.models.${item.model}"}


def test_every_parameter_that_a_stage_depends_on_is_resolved() -> None:
    resolved = load_params(ROOT / "params.yaml").resolved()
    for stage in DVC.values():
        for depends in stage.get("params", []):
            for key in depends["data/params.yaml"]:
                section = resolved
                for part in key.replace("${item.model}", "cnn").split("."):
                    assert part in section, f"DVC refuses to run: {key} is not in data/params.yaml"
                    section = section[part]


def test_every_verb_describes_itself_in_one_line_and_is_listed() -> None:
    listed = subprocess.run([sys.executable, "-m", "pipelines"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for verb in VERBS:
        assert re.search(rf"^  {verb} +\w.*\.", listed, re.M), listed


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"pipelines.{verb}", "--help"])
    monkeypatch.delitem(sys.modules, f"pipelines.{verb}", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"pipelines.{verb}", run_name="__main__")  # as `python -m` does, with imports shared by all verbs
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_the_commands_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    commands = re.findall(r"`(?:make) ([a-z]+)", text) + re.findall(r"^ *make ([a-z]+)", text, re.M)
    assert {"repro", "test"} <= set(commands)
    assert set(commands) <= targets
    assert set(re.findall(r"pipelines\.([a-z]+)", text)) <= VERBS


def test_the_readmes_reference_is_that_of_the_schema() -> None:
    text = (ROOT / "README.md").read_text()
    assert text == reference.inserted(text), "run `make docs`"
    assert text.count("| `train.models.<name>.learning_rate` |") == 1


def test_make_help_lists_every_target() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "repro", "test", "check", "ui", "lock", "help"):
        assert f"make {target} " in shown


def test_the_lock_has_hashes_and_no_addresses() -> None:
    text = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^[a-z0-9][a-z0-9._-]*(?:\[[^\]]*\])?==", text, re.M)
    assert len(pins) > 100
    assert text.count("--hash=sha256:") >= len(pins)
    assert "://" not in text
