"""The rules of the house, enforced."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components import provenance, reference
from components.params import Params, Train

ROOT = Path(__file__).resolve().parents[2]
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
VERBS = {path.stem for path in (ROOT / "pipelines").glob("[!_]*.py")}


def test_imports_go_one_way() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def compact(files: set[Path]) -> set[str]:
    """With a folder in place of its modules where all of them are there, and without those that hold no more than a docstring:
    DVC parses every line of its lock, and looks at every dependency, at every start."""
    for folder in sorted({path.parent for path in files if len(path.parts) > 2}):
        modules = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py")}
        if modules <= files:
            files = files - modules | {folder}
    return {str(path) for path in files if (ROOT / path).is_dir() or _does_something(ROOT / path)}


def _does_something(path: Path) -> bool:
    return not all(isinstance(node, ast.Expr) for node in ast.parse(path.read_text(encoding="utf-8")).body)


@pytest.mark.parametrize("stage", DVC)
def test_a_stages_code_deps_are_exactly_what_it_can_import(stage: str) -> None:
    named = {dep for dep in DVC[stage]["deps"] if dep.startswith(("components/", "pipelines/"))}
    imported = compact({Path(path) for path in provenance.first_party(f"pipelines.{stage}")})
    assert named == imported, "paste into dvc.yaml:\n" + "\n".join(f"      - {path}" for path in sorted(imported))


def test_what_code_reads_from_beside_it_is_a_dep_as_well() -> None:
    """A template, say: it has to lie in a folder that a stage depends on as a whole."""
    deps = {ROOT / dep for stage in DVC.values() for dep in stage["deps"]}
    command = ["git", "ls-files", "components", "pipelines"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    others = [ROOT / name for name in listed.stdout.split() if not name.endswith(".py")]
    assert others
    assert all(deps.intersection(path.parents) for path in others)


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


def test_train_is_run_again_for_every_parameter_that_it_reads() -> None:
    # How a training survives, and where it keeps its images, does not change what comes out.
    survival = {f"train.{name}" for name in ("max_failures", "images", "checkpoint", "watchdog_s", "start_timeout_s")}
    own = {f"train.{name}" for name in Train.model_fields} - {"train.models"} - survival
    assert set(DVC["train"]["params"]) == own | {"seed", "train.models.${item.model}"}


def test_every_parameter_that_a_stage_depends_on_is_in_the_file() -> None:
    for stage in DVC.values():
        for key in stage["params"]:
            section = PARAMS
            for part in key.replace("${item.model}", "cnn").split("."):
                assert part in section, f"DVC refuses to run: {key} is not in params.yaml"
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
