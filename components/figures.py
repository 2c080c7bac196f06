"""Class names and images in figures.

Class names need fonts that have their characters, or else a spelling in ASCII.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes

_DEFAULT = "DejaVu Sans"  # comes with matplotlib
# It comes with matplotlib too, and draws a box for every character.
_PLACEHOLDERS = "Last Resort"
_NORMAL_WEIGHT = 400


def show_image(axis: Axes, pixels: np.ndarray) -> None:
    """Draw one image, `uint8 (H, W, C)`; of more than three channels, the first three."""
    axis.imshow(
        pixels.squeeze(2) if pixels.shape[2] == 1 else pixels[..., :3],
        cmap="gray",
        vmin=0,
        vmax=255,
    )


@contextmanager
def label_fonts(names: Sequence[str]) -> Iterator[list[str]]:
    """Yield the names as labels, which a figure that is drawn within the block can show.

    Characters that no font of this machine has are written as `\\uXXXX`.
    """
    # It warns of every family that has no face of normal weight, and uses another.
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        families, missing = _find_fonts(set("".join(names)))
        with matplotlib.rc_context({"font.family": families}):
            yield [_make_label(name, missing) for name in names]
    finally:
        log.setLevel(level)


def _make_label(name: str, missing: set[str]) -> str:
    spelled = (
        character.encode("ascii", "backslashreplace").decode()
        if character in missing
        else character
        for character in name
    )
    # Between two dollars matplotlib would expect a formula.
    return "".join(spelled).replace("$", r"\$")


def _find_fonts(characters: set[str]) -> tuple[list[str], set[str]]:
    """Return font families that have the characters together, and the characters that none has."""
    families = [_DEFAULT]
    missing = characters - _characters_of(_DEFAULT)
    if missing:
        _add_new_fonts()
        # Upright fonts without serifs first: they look like the default.
        for family in sorted(_installed_families(), key=lambda name: ("Sans" not in name, name)):
            if has := missing & _characters_of(family):
                families.append(family)
                missing -= has
            if not missing:
                break
    return families, missing


def _add_new_fonts() -> None:
    """Add fonts that were installed since matplotlib made its list of fonts."""
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - known):
        try:
            font_manager.fontManager.addfont(path)
        except (OSError, RuntimeError):  # not a font that matplotlib can read
            continue


def _installed_families() -> set[str]:
    """Return the families with a font of normal weight; without one matplotlib logs a warning."""
    return {
        entry.name
        for entry in font_manager.fontManager.ttflist
        if entry.weight == _NORMAL_WEIGHT and not entry.name.startswith(_PLACEHOLDERS)
    }


def _characters_of(family: str) -> set[str]:
    """Return the characters of the font that matplotlib chooses for a family."""
    try:
        path = font_manager.findfont(family, fallback_to_default=False)
        return {chr(code) for code in font_manager.get_font(path).get_charmap()}
    except (OSError, ValueError, RuntimeError):
        return set()
