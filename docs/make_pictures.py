"""Make the pictures of README and docs from a finished run.

    dvc repro 2>&1 | tee run.log
    python docs/make_pictures.py --run . --log run.log

The terminal and the reports are those of the run. The name of its folder is replaced by `/kiln`.
The diagram of the stages is drawn from `dvc.yaml`. Chromium takes the screenshot of the report.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
COLUMNS = 118
# Progress lines are left out of the picture.
_LEFT_OUT = re.compile(r": *\d+% |^Updating lock file|^$")

# Geometry of the diagram, in pixels.
BOX = 136
GAP = 66
TOP = 104
_SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1160 210" font-size="13" \
font-family="system-ui, sans-serif">
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" \
orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#b5502b"/></marker></defs>
<rect width="1160" height="210" fill="#ffffff"/>
{body}
</svg>
"""


def draw_terminal(run: Path, log: Path, target: Path) -> None:
    """Draw the run's output and its closing table as a terminal, in SVG."""
    lines = log.read_text(encoding="utf-8").partition("\nTo track the changes")[0].splitlines()
    lines = [line for line in lines if not _LEFT_OUT.search(line)]
    output = "\n".join(lines).strip() + "\n\n" + _closing_table(run)
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"))  # noqa: SIM115
    console.print(Text("$ make repro", style="bold"))
    console.print(Text.from_ansi(output.replace(str(run), "/kiln")))
    svg = console.export_svg(title="make repro", theme=MONOKAI, unique_id="terminal")
    # Rich's template loads a font from the network. Any fixed-width font fits.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", "monospace")
    target.write_text(svg, encoding="utf-8")


def _closing_table(run: Path) -> str:
    environment = {name: text for name, text in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.status"],
        cwd=run,
        env=environment | {"FORCE_COLOR": "1", "COLUMNS": str(COLUMNS)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def photograph_report(report: Path, target: Path, browser: str) -> None:
    """Take a screenshot of the top of a report, in PNG with a palette."""
    options = ["--headless", "--hide-scrollbars", "--window-size=1140,1000"]
    command = [*shlex.split(browser), *options, f"--screenshot={target}", report.as_uri()]
    subprocess.run(command, check=True, capture_output=True)
    with Image.open(target) as image:
        image.convert("RGB").quantize(128).save(target, optimize=True)


def draw_stages(target: Path) -> None:
    """Draw the stages of `dvc.yaml` from left to right and the data between them, in SVG."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    del stages["params"]  # every stage depends on it
    names = [*stages, "promote"]
    outs = {name: _outs(stage) for name, stage in stages.items()} | {"promote": ["moves an alias"]}
    parts = [_box(number, name, outs[name]) for number, name in enumerate(names)]
    for number, name in enumerate(stages):
        for source, stage in enumerate(list(stages)[:number]):
            deps = [_plain(dep) for dep in stages[name]["deps"]]
            handed = [dep for dep in deps if any(_overlap(dep, out) for out in outs[stage])]
            if handed:
                parts.append(_arrow(source, number, _common(handed)))
    parts.append(_arrow(len(stages) - 1, len(stages), ""))
    target.write_text(_SVG.format(body="\n".join(parts)), encoding="utf-8")


def _outs(stage: dict[str, Any]) -> list[str]:
    listed = [out for key in ("outs", "metrics", "plots") for out in stage.get(key, [])]
    return [_plain(out if isinstance(out, str) else next(iter(out))) for out in listed]


def _plain(path: str) -> str:
    return path.replace("${item.model}", "M")


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _common(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else os.path.commonpath(paths)


def _box(number: int, name: str, outs: list[str]) -> str:
    x = 6 + number * (BOX + GAP)
    dash = ' stroke-dasharray="5 4"' if name == "promote" else ""
    lines = sorted({_short(out) for out in outs})
    listed = "".join(
        f'<text x="{x + BOX / 2}" y="{TOP + 62 + 16 * row}" text-anchor="middle" fill="#555">'
        f"{line}</text>"
        for row, line in enumerate(lines)
    )
    return (
        f'<rect x="{x}" y="{TOP}" width="{BOX}" height="40" rx="6" fill="#fdf1ec" '
        f'stroke="#b5502b"{dash}/><text x="{x + BOX / 2}" y="{TOP + 25}" text-anchor="middle" '
        f'font-weight="600" fill="#222">{name}</text>{listed}'
    )


def _short(out: str) -> str:
    """Return an out's name, or its folder's where a stage has many in one folder."""
    return "reports/" if out.startswith("reports/") else out.removeprefix("models/M/")


def _arrow(source: int, target: int, label: str) -> str:
    left = 6.0 + source * (BOX + GAP) + BOX
    right = 6.0 + target * (BOX + GAP)
    if target == source + 1:
        path = f"M{left} {TOP + 20} L{right} {TOP + 20}"
        y = TOP + 13.0
        label = label.rpartition("/")[2]
    else:
        left, right = left - BOX / 4, right + BOX / 4
        height = 8 + 26 * (target - source)
        path = f"M{left} {TOP} C{left} {TOP - height} {right} {TOP - height} {right} {TOP}"
        y = TOP - 0.75 * height - 5
    return (
        f'<path d="{path}" fill="none" stroke="#b5502b" stroke-width="1.5" '
        f'marker-end="url(#head)"/><text x="{(left + right) / 2}" y="{y}" text-anchor="middle" '
        f'fill="#555">{label}</text>'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--log", type=Path, required=True, help="what the run printed")
    parser.add_argument(
        "--browser", default="chromium", help="Chromium's command, with options if it needs some"
    )
    args = parser.parse_args()
    run = args.run.resolve()
    PICTURES.mkdir(exist_ok=True)
    draw_terminal(run, args.log, PICTURES / "terminal.svg")
    photograph_report(
        run / "data" / "prepared" / "report.html", PICTURES / "report.png", args.browser
    )
    shutil.copy(run / "reports" / "figures" / "cnn.png", PICTURES / "evaluation.png")
    draw_stages(PICTURES / "stages.svg")


if __name__ == "__main__":
    main()
