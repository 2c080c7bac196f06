"""Class names in figures."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from components import figures
from components.figures import label_fonts
from components.paths import ROOT

NAMES = ["cat", "Größe", "кошка", "猫", "고양이", "قطة", "बिल्ली", "🐱", "$5 or $10", "a_b^c"]


def draw(names: list[str]) -> np.ndarray:
    """Return the pixels of a figure with the names as labels; a warning is an error."""
    with warnings.catch_warnings(), label_fonts(names) as labels:
        warnings.simplefilter("error")
        figure = Figure(figsize=(4, 4))
        canvas = FigureCanvasAgg(figure)
        figure.subplots().set_yticks(range(len(labels)), labels)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba()).copy()


def test_names_in_any_script_are_drawn_without_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert np.array_equal(draw(NAMES), draw(NAMES))
    assert not caplog.records


@pytest.mark.parametrize("name", NAMES)
def test_every_character_of_a_label_has_a_glyph(name: str) -> None:
    with label_fonts([name]) as [label]:
        families = figures.matplotlib.rcParams["font.family"]
        available = set().union(*map(figures._characters_of, families))
        assert set(label) <= available


def test_character_that_no_font_has_is_spelled_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_installed_families", set)
    with label_fonts(["Größe", "a猫b"]) as labels:
        assert labels == ["Größe", r"a\u732bb"]


def test_installed_font_with_the_character_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    fonts = {"DejaVu Sans": set("cat"), "A Serif": set("猫狗"), "B Sans": set("猫")}
    monkeypatch.setattr(figures, "_installed_families", lambda: set(fonts))
    monkeypatch.setattr(figures, "_characters_of", fonts.__getitem__)
    with label_fonts(["cat", "猫狗"]) as labels:
        assert labels == ["cat", "猫狗"]
        assert figures.matplotlib.rcParams["font.family"] == ["DejaVu Sans", "B Sans", "A Serif"]
    assert figures.matplotlib.rcParams["font.family"] != ["DejaVu Sans", "B Sans", "A Serif"]


def test_font_that_draws_boxes_for_everything_is_not_used() -> None:
    assert any(entry.name.startswith("Last Resort") for entry in font_manager.fontManager.ttflist)
    assert not any(name.startswith("Last Resort") for name in figures._installed_families())


def test_caches_of_matplotlib_stay_in_the_checkout(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k not in ("MPLCONFIGDIR", "XDG_CONFIG_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", "import components, matplotlib; print(matplotlib.get_cachedir())"],
        cwd=ROOT,
        env=env | {"HOME": "/proc"},  # a folder that not even root can write
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(ROOT / ".kiln" / "matplotlib")
    assert done.stderr == ""
