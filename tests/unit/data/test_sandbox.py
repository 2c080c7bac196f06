"""The decoder process: bounds on memory and time, crashes, and conversion of images."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from components.data.preparation import decoder
from components.data.preparation.conversion import DecodedImage
from components.data.preparation.rules import DecoderRules
from components.data.preparation.sandbox import DecodeFailure, Sandbox
from tests.unit.data.hostile import encode, make_huge_png, make_picture

RULES = DecoderRules(
    image_size=(16, 16),
    resize="crop",
    channels=3,
    background=255,
    formats=("JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP", "AVIF", "HEIF"),
    max_pixels=300_000_000,
    max_seconds=20,
    max_memory=256 << 20,
    strict_jpeg=True,
)
GOOD = [encode(make_picture(n, 40), "JPEG") for n in range(5)]


def run_sandbox(rules: DecoderRules, files: list[bytes]) -> list[DecodedImage | DecodeFailure]:
    """Decode files in a new sandbox, which is closed afterwards."""
    sandbox = Sandbox(rules)
    outcomes = list(sandbox.decode(files))
    sandbox.close()
    return outcomes


def decode_all(rules: DecoderRules, files: list[bytes]) -> list[str]:
    """Decode files in a sandbox; return "ok" or the reason of the failure for each."""
    return [
        "ok" if isinstance(outcome, DecodedImage) else outcome.reason
        for outcome in run_sandbox(rules, files)
    ]


def test_image_over_the_memory_limit_is_refused_alone() -> None:
    files = [*GOOD[:2], make_huge_png(14_143), *GOOD[2:]]
    outcomes = decode_all(RULES._replace(max_memory=64 << 20), files)
    assert outcomes == ["ok", "ok", "memory", "ok", "ok", "ok"]


def test_image_over_the_time_limit_is_refused_alone() -> None:
    rules = RULES._replace(max_memory=4 << 30, max_seconds=0.5)
    files = [GOOD[0], make_huge_png(14_143), GOOD[1]]
    assert decode_all(rules, files) == ["ok", "timeout", "ok"]


def test_crash_of_the_decoder_refuses_one_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A decoder that dies on files that begin with "exploit", as after a bug in a codec.
    source = Path(decoder.__file__).read_text()
    call = "    image = open_image(data, rules)\n"
    assert call in source
    crash = (
        '    if data.startswith(b"exploit"):\n'
        '        __import__("os").kill(__import__("os").getpid(), signal.SIGSEGV)\n'
    )
    (tmp_path / "decoder.py").write_text(source.replace(call, crash + call))
    monkeypatch.setattr(decoder, "__file__", str(tmp_path / "decoder.py"))
    files = [GOOD[0], b"exploit", b"exploit", *GOOD[1:], b"exploit"]
    outcomes = decode_all(RULES, files)
    assert outcomes == ["ok", "crash", "crash", "ok", "ok", "ok", "ok", "crash"]


def test_decoder_that_cannot_start_raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "decoder.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(decoder, "__file__", str(tmp_path / "decoder.py"))
    with pytest.raises(RuntimeError, match="the decoder does not start"):
        decode_all(RULES, GOOD)


def test_one_process_decodes_all_files_until_close() -> None:
    sandbox = Sandbox(RULES)
    list(sandbox.decode(GOOD))
    assert sandbox.process
    first = sandbox.process.pid
    list(sandbox.decode(GOOD * 300))
    assert sandbox.process.pid == first
    sandbox.close()
    with pytest.raises(ProcessLookupError):
        os.kill(first, signal.SIGCONT)


def decode_pixels(data: bytes, rules: DecoderRules = RULES) -> np.ndarray:
    """Decode a file in this process, at its own size."""
    return decoder.decode(data, rules._replace(image_size=None)).pixels


def test_orientation_is_applied() -> None:
    upright = make_picture(1, 40)[:30]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # Viewers turn it clockwise by a quarter.
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95},
        "PNG": {},
        "WEBP": {"lossless": True},
        "TIFF": {},
    }
    for form, arguments in options.items():
        pixels = decode_pixels(encode(np.rot90(upright), form, exif=exif, **arguments))
        assert pixels.shape == (30, 40, 3), form
        assert np.abs(pixels.astype(int) - upright).mean() < 3, form


def test_transparency_is_blended_with_the_background() -> None:
    hidden = np.dstack([make_picture(2, 20), np.zeros((20, 20), np.uint8)])
    assert (decode_pixels(encode(hidden)) == 255).all()
    assert (decode_pixels(encode(hidden), RULES._replace(background=7)) == 7).all()
    half = np.dstack([np.zeros((20, 20, 3), np.uint8), np.full((20, 20), 128, np.uint8)])
    assert np.abs(decode_pixels(encode(half)).astype(int) - 127).max() <= 1
    palette = Image.fromarray(make_picture(3, 20)).quantize(8)
    palette.info["transparency"] = 0
    transparent = np.asarray(palette) == 0
    for form in ("PNG", "GIF"):
        pixels = decode_pixels(encode(palette, form, transparency=0))
        assert (pixels[transparent] == 255).all(), form


def test_sixteen_bits_are_scaled() -> None:
    ramp = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    for form in ("PNG", "TIFF"):
        pixels = decode_pixels(encode(Image.fromarray(ramp), form))
        assert np.array_equal(pixels[..., 0], np.rint(ramp / 257.0).astype(np.uint8)), form
        assert len(np.unique(pixels)) > 200


def test_cmyk_is_converted_to_rgb() -> None:
    red = Image.new("CMYK", (20, 20), (0, 255, 255, 0))
    for form in ("JPEG", "TIFF"):
        pixels = decode_pixels(encode(red, form))
        assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 3, form


def test_palette_is_converted_to_rgb() -> None:
    palette = Image.fromarray(make_picture(4, 20)).quantize(16)
    assert np.array_equal(decode_pixels(encode(palette)), np.asarray(palette.convert("RGB")))


def test_grey_and_black_and_white_become_rgb() -> None:
    grey = make_picture(5, 20)[..., 0]
    assert np.array_equal(decode_pixels(encode(grey))[..., 1], grey)
    assert set(np.unique(decode_pixels(encode(grey > 99)))) == {0, 255}


def test_one_channel_is_grey() -> None:
    pixels = decode_pixels(encode(make_picture(6, 20)), RULES._replace(channels=1))
    assert pixels.shape == (20, 20, 1)


def test_jpeg_pixels_are_those_of_pillow() -> None:
    color = Image.fromarray(make_picture(7, 50))
    for image in (color, color.convert("L")):
        data = encode(image, "JPEG", quality=70, progressive=True)
        with Image.open(BytesIO(data)) as opened:
            assert np.array_equal(decode_pixels(data), np.asarray(opened.convert("RGB")))


def test_resize_crops_the_central_square() -> None:
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = 200
    image = decoder.decode(encode(wide), RULES)
    assert image.pixels.shape == (16, 16, 3)
    assert (image.pixels[:, 2:-2] == 200).all()
    assert image.size == (40, 120)


def test_decoder_loads_no_other_module_of_kiln() -> None:
    code = (
        "import sys, components.data.preparation.decoder\n"
        "print(*sorted(m for m in sys.modules if m.startswith('components.') and m.count('.') > 2))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "components.data.preparation.conversion",
        "components.data.preparation.decoder",
        "components.data.preparation.formats",
        "components.data.preparation.rules",
        "components.data.sources.files",
        "components.data.sources.files.iso_brands",
    ]
