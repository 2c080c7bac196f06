"""The decoder's process: what kills it costs one image, and nobody waits for what never ends."""

from __future__ import annotations

import os
import signal
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.data.preparation import decoder
from components.data.preparation.decoder import Decoded, Rules
from components.data.preparation.sandbox import Sandbox
from tests.unit.data.hostile import encoded, huge_png, picture

RULES = Rules(16, 3, 255, ("JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP"), 300_000_000, 20, 256 << 20, True)
GOOD = [encoded(picture(n, 40), "JPEG") for n in range(5)]


def outcomes(rules: Rules, files: list[bytes]) -> list[str]:
    sandbox = Sandbox(rules)
    found = ["ok" if isinstance(outcome, Decoded) else outcome[0] for outcome in sandbox.decode(files)]
    sandbox.close()
    return found


def test_an_image_that_wants_too_much_memory_costs_itself_alone() -> None:
    files = [*GOOD[:2], huge_png(14_143), *GOOD[2:]]
    assert outcomes(RULES._replace(memory=64 << 20), files) == ["ok", "ok", "memory", "ok", "ok", "ok"]


def test_an_image_that_takes_too_long_costs_itself_alone() -> None:
    slow = huge_png(14_143)
    assert outcomes(RULES._replace(memory=4 << 30, seconds=0.05), [GOOD[0], slow, GOOD[1]]) == ["ok", "timeout", "ok"]


def test_a_decoder_that_dies_costs_the_image_that_it_was_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A decoder with a hole: whatever begins with these bytes kills it, as a bug in a codec would.
    source = Path(decoder.__file__).read_text()
    hole = '    if data.startswith(b"exploit"):\n        __import__("os").kill(__import__("os").getpid(), signal.SIGSEGV)\n'
    (tmp_path / "decoder.py").write_text(
        source.replace("    image = _header(data, rules)\n", hole + "    image = _header(data, rules)\n")
    )
    monkeypatch.setattr(decoder, "__file__", str(tmp_path / "decoder.py"))
    files = [GOOD[0], b"exploit", b"exploit", *GOOD[1:], b"exploit"]
    assert outcomes(RULES, files) == ["ok", "crash", "crash", "ok", "ok", "ok", "ok", "crash"]


def test_a_decoder_that_cannot_start_is_no_images_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "decoder.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(decoder, "__file__", str(tmp_path / "decoder.py"))
    with pytest.raises(RuntimeError, match="the decoder does not start"):
        outcomes(RULES, GOOD)


def test_one_process_serves_many_and_ends_with_its_owner() -> None:
    sandbox = Sandbox(RULES)
    list(sandbox.decode(GOOD))
    assert sandbox.process
    first = sandbox.process.pid
    list(sandbox.decode(GOOD * 300))
    assert sandbox.process.pid == first
    sandbox.close()
    with pytest.raises(ProcessLookupError):
        os.kill(first, signal.SIGCONT)


def shown(data: bytes, **changes: object) -> np.ndarray:
    return decoder.decode(data, RULES._replace(size=None, **changes)).pixels  # type: ignore[arg-type]


def test_orientation_is_applied() -> None:
    upright = picture(1, 40)[:30]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        options = {"quality": 95} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
        turned = encoded(np.rot90(upright), form, exif=exif, **options)
        found = shown(turned)
        assert found.shape == (30, 40, 3), form
        assert np.abs(found.astype(int) - upright).mean() < 3, form


def test_what_is_hidden_under_transparency_does_not_show() -> None:
    hidden = np.dstack([picture(2, 20), np.zeros((20, 20), np.uint8)])
    assert (shown(encoded(hidden)) == 255).all()
    assert (shown(encoded(hidden), background=7) == 7).all()
    half = np.dstack([np.zeros((20, 20, 3), np.uint8), np.full((20, 20), 128, np.uint8)])
    assert np.abs(shown(encoded(half)).astype(int) - 127).max() <= 1
    palette = Image.fromarray(picture(3, 20)).quantize(8)
    palette.info["transparency"] = 0
    entry = np.asarray(palette) == 0
    assert (shown(encoded(palette, "PNG", transparency=0))[entry] == 255).all()
    assert (shown(encoded(palette, "GIF", transparency=0))[entry] == 255).all()


def test_sixteen_bits_are_scaled_not_cut() -> None:
    ramp = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    for form in ("PNG", "TIFF"):
        found = shown(encoded(Image.fromarray(ramp), form))
        assert np.array_equal(found[..., 0], np.rint(ramp / 257.0).astype(np.uint8)), form
        assert len(np.unique(found)) > 200


def test_cmyk_and_palettes_and_grey_become_what_they_show() -> None:
    red = Image.new("CMYK", (20, 20), (0, 255, 255, 0))
    for form in ("JPEG", "TIFF"):
        assert np.abs(shown(encoded(red, form)).astype(int) - [255, 0, 0]).max() <= 3, form
    palette = Image.fromarray(picture(4, 20)).quantize(16)
    assert np.array_equal(shown(encoded(palette)), np.asarray(palette.convert("RGB")))
    assert np.array_equal(shown(encoded(Image.fromarray(picture(5, 20)[..., 0])))[..., 1], picture(5, 20)[..., 0])
    assert set(np.unique(shown(encoded(Image.fromarray(picture(5, 20)[..., 0] > 99))))) == {0, 255}
    assert shown(encoded(picture(6, 20)), channels=1).shape == (20, 20, 1)


def test_jpeg_is_what_pillow_makes_of_it() -> None:
    for image in (Image.fromarray(picture(7, 50)), Image.fromarray(picture(7, 50)).convert("L")):
        data = encoded(image, "JPEG", quality=70, progressive=True)
        with Image.open(BytesIO(data)) as opened:
            assert np.array_equal(shown(data), np.asarray(opened.convert("RGB")))


def test_fitting_takes_the_central_square() -> None:
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = 200
    found = decoder.decode(encoded(wide), RULES).pixels
    assert found.shape == (16, 16, 3)
    assert (found[:, 2:-2] == 200).all()
    assert decoder.decode(encoded(wide), RULES).size == (40, 120)
