"""The pages agree with the code: links, parameters, modules, pictures."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from components.params import Params, reference
from tests.unit.docs.pages import ALL_BLOCKS, PAGES, ROOT, Block

CHECKED = [block for block in ALL_BLOCKS if block.comment.startswith("checked: ")]
ARCHITECTURE = ROOT / "docs" / "explanation" / "architecture.md"


def load_script(name: str) -> ModuleType:
    """Import a script of `docs/`, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)[)#]", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_files_that_the_repository_names_exist() -> None:
    """Error messages, comments and settings refer to pages of `docs/`."""
    folders = ("benchmarks", "components", "deploy", "docs", "pipelines", "tests")
    files = [path for path in ROOT.iterdir() if path.is_file()]
    files += [path for folder in folders for path in (ROOT / folder).rglob("*.*")]
    named = [path for path in files if path.name.endswith((".py", ".yaml", ".toml", "Makefile"))]
    assert ROOT / "Makefile" in named
    for path in named:
        for target in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{path} names {target}"


@pytest.mark.parametrize("block", CHECKED, ids=str)
def test_parameters_in_pages_are_valid(block: Block) -> None:
    values = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text(encoding="utf-8"))
    shown = yaml.safe_load(block.text)
    if block.comment == "checked: params":
        values = shown
    elif block.comment == "checked: models":
        values["train"]["models"] |= shown["train"]["models"]
    else:
        values |= shown
    Params.model_validate(values)


def test_every_yaml_block_is_checked() -> None:
    unchecked = [block for block in ALL_BLOCKS if block.language == "yaml" and not block.comment]
    assert not unchecked


def test_reference_has_each_parameter_once() -> None:
    assert reference.render().count("| `train.models.<name>.learning_rate` |") == 1


def test_architecture_names_every_module() -> None:
    """Each package has a section with a table of its files."""
    sections = re.split(r"^### ", ARCHITECTURE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    rooms = {section.partition("\n")[0].strip("`/ "): section for section in sections}
    for package in ("components", "pipelines"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name == "__init__.py":
                continue
            parts = path.relative_to(ROOT).parts
            room = "/".join(parts[:2]) if len(parts) > 2 else parts[0]
            name = "/".join(parts[2:]) if len(parts) > 2 else parts[1]
            assert f"| `{name}` |" in rooms[room], f"{path} is missing in {ARCHITECTURE}"


def test_architecture_names_no_module_that_is_gone() -> None:
    room = ""
    for line in ARCHITECTURE.read_text(encoding="utf-8").splitlines():
        if line.startswith("### "):
            room = line.removeprefix("### ").strip("`/ ")
        elif match := re.match(r"\| `([\w/]+\.py)` \|", line):
            assert (ROOT / room / match[1]).exists(), f"{room}/{match[1]}"


def test_diagram_shows_the_stages_of_dvc_yaml(tmp_path: Path) -> None:
    pictures = load_script("make_pictures")
    pictures.draw_stages(tmp_path / "stages.svg")
    drawn = (tmp_path / "stages.svg").read_text(encoding="utf-8")
    assert drawn == (ROOT / "docs" / "pictures" / "stages.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["stages.svg", "terminal.svg"])
def test_pictures_load_nothing_and_name_no_folder_of_their_machine(name: str) -> None:
    text = (ROOT / "docs" / "pictures" / name).read_text(encoding="utf-8")
    assert not re.search(r"""(?:href=["']?|url\(["']?)https?:""", text)
    assert not re.search(r"/(?:home|Users|tmp|root|work)/", text)


@pytest.mark.parametrize(
    ("address", "link", "expected"),
    [
        ("index.md", "../CONTRIBUTING.md", "contributing.md"),
        ("how-to/upgrade.md", "server.md", "server.md"),
        ("explanation/security.md", "../../SECURITY.md", "../security-policy.md"),
        ("benchmarks/index.md", "../../benchmarks/NOTES.md", "notes.md"),
        ("contributing.md", "docs/how-to/server.md", "how-to/server.md"),
        ("explanation/faults.md", "../../docs/how-to/resume.md", "../how-to/resume.md"),
    ],
)
def test_links_are_rewritten_for_the_site(address: str, link: str, expected: str) -> None:
    rewrite_links = load_script("generate").rewrite_links
    assert rewrite_links(f"see [it]({link}#part)", address) == f"see [it]({expected}#part)"


def test_site_loads_nothing_from_the_network(tmp_path: Path) -> None:
    """Also proves that the site builds without a warning."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    loads = re.compile(
        r"<(?:script|link|img|source|iframe)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//"
    )
    for page in pages:
        assert not loads.search(page.read_text(encoding="utf-8")), page
    styles = "".join(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.css"))
    assert not re.search(r"url\([\"']?(?:https?:)?//|@import", styles)
    parameters = (tmp_path / "reference" / "parameters.html").read_text(encoding="utf-8")
    assert "train.models.&lt;name&gt;.learning_rate" in parameters
    commands = (tmp_path / "reference" / "commands.html").read_text(encoding="utf-8")
    assert "--expect-current" in commands
