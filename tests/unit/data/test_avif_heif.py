"""Photos in AVIF and HEIF: the same treatment as the older formats, in the same sandbox."""

from __future__ import annotations

import struct
import sys
from base64 import b85decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image, features

from components.data.preparation import decoder
from components.data.preparation.conversion import DecodedImage
from components.data.preparation.formats import load_codecs
from components.data.preparation.rules import DecoderRules
from components.data.preparation.sandbox import DecodeFailure
from tests.unit.data.hostile import encode, encode_animation, make_class_folder, make_picture
from tests.unit.data.prepared import Prepare, read_quarantine, read_splits
from tests.unit.data.test_sandbox import RULES, decode_pixels, run_sandbox

pillow_heif.register_heif_opener()  # So that Pillow writes HEIF.
load_codecs()

FORMATS = ("AVIF", "HEIF")
UPRIGHT = make_picture(1, 80)[:48]
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)
# A horizontal ramp of 10 bits per channel, 64 x 16 pixels, written by libavif (`imagecodecs`):
# Pillow writes 8 bits only.
TEN_BIT_AVIF = b85decode(
    "0000WW^{RQVRmU|00000VRmU|ZE0pPZE0a<O+hh10002%ZDn*}000000000XXk=`10000000000aA{+7"
    "000000000000000000004sdC7Z2$lO000310016oY;R)#0000)000310RR910RR926951JKL7v#C~0YK"
    "W&i*H00031000_kZf0cy000000RRADb}%tRZ)|UJ00000YH4tCZ~y=ROKEUpZvX%Q6lrsCWdHyG00000"
    "KmY&$5C8xG5O8UDX#fBK00RmN3IG5A3}JRLLxCVb000006Ju{|a&BX6cmM(b0ssbp0000NX>e^}00000"
    "00001009I60)qqq002jAWMOm?015~=6#w?{ARuWnF%kkpN`L_J0002zVs5dIOmnXxcQSWj0O}KnhwB4$"
    "1#rvew4PHcD$l4z;nuQ(@)Q"
)


def make_photo(form: str, seed: int = 2, size: int = 48) -> bytes:
    return encode(make_picture(seed, size), form, quality=95)


def with_announced_size(data: bytes, width: int, height: int) -> bytes:
    """Return a file of 64 x 64 pixels whose header announces another size."""
    announced = b"ispe" + struct.pack(">III", 0, 64, 64)
    assert announced in data
    return data.replace(announced, b"ispe" + struct.pack(">III", 0, width, height))


def decode_in_sandbox(files: list[bytes], **rules: int | float) -> list[str]:
    """Return the format of each file, or the reason of its refusal."""
    return [
        outcome.format if isinstance(outcome, DecodedImage) else outcome.reason
        for outcome in run_sandbox(RULES._replace(**rules), files)
    ]


def refuse(data: bytes, rules: DecoderRules = RULES) -> DecodeFailure:
    (outcome,) = run_sandbox(rules, [data])
    assert isinstance(outcome, DecodeFailure)
    return outcome


@pytest.mark.parametrize("form", FORMATS)
def test_pixels_are_those_of_the_picture(form: str) -> None:
    pixels = decode_pixels(encode(UPRIGHT, form, quality=95))
    assert pixels.shape == UPRIGHT.shape
    assert np.abs(pixels.astype(int) - UPRIGHT).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", FORMATS)
def test_orientation_is_applied_once(form: str, orientation: int) -> None:
    # The writers store the orientation in the container, and EXIF repeats it.
    stored = {
        1: UPRIGHT,
        2: UPRIGHT[:, ::-1],
        3: UPRIGHT[::-1, ::-1],
        4: UPRIGHT[::-1],
        5: UPRIGHT.transpose(1, 0, 2),
        6: np.rot90(UPRIGHT),
        7: np.rot90(UPRIGHT.transpose(1, 0, 2), 2),
        8: np.rot90(UPRIGHT, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encode(np.ascontiguousarray(stored), form, quality=95, exif=exif.tobytes())
    pixels = decode_pixels(data)
    assert pixels.shape == UPRIGHT.shape
    assert np.abs(pixels.astype(int) - UPRIGHT).mean() < 4


def test_orientation_of_xmp_does_not_turn_avif() -> None:
    """MIAF (ISO/IEC 23000-22): only the container's rotation counts."""
    assert decode_pixels(encode(UPRIGHT, "AVIF", xmp=XMP)).shape == UPRIGHT.shape


@pytest.mark.parametrize("form", FORMATS)
def test_transparency_is_blended_with_the_background(form: str) -> None:
    hidden = np.dstack([make_picture(2, 32), np.zeros((32, 32), np.uint8)])
    pixels = decode_pixels(encode(hidden, form, quality=95), RULES._replace(background=7))
    assert np.abs(pixels.astype(int) - 7).max() <= 2


@pytest.mark.parametrize("form", FORMATS)
def test_grey_becomes_rgb(form: str) -> None:
    grey = make_picture(5, 32)[..., 0]
    pixels = decode_pixels(encode(grey, form, quality=95))
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels[..., 1].astype(int) - grey).mean() < 3


def save_ten_bits(mode: str, pixels: np.ndarray) -> bytes:
    """Return values from 0 to 255 as a HEIF file of 10 bits per channel."""
    wide = pixels.astype(np.uint16) * 257
    image = pillow_heif.from_bytes(mode=mode, size=pixels.shape[1::-1], data=wide.tobytes())
    data = BytesIO()
    image.save(data, quality=98, chroma=444)
    assert pillow_heif.open_heif(data.getvalue()).info["bit_depth"] == 10
    return data.getvalue()


def test_ten_bits_are_scaled_to_eight() -> None:
    for mode, picture in (("RGB;16", UPRIGHT), ("I;16", UPRIGHT[..., 0])):
        pixels = decode_pixels(save_ten_bits(mode, np.ascontiguousarray(picture)))
        expected = picture if picture.ndim == 3 else picture[..., None]
        assert np.abs(pixels.astype(int) - expected).max() <= 4, mode


def test_ten_bit_avif_is_scaled_to_eight() -> None:
    row = decode_pixels(TEN_BIT_AVIF)[8, :, 0].astype(int)
    assert np.abs(row - np.arange(64) * 255 / 63).max() <= 3


def test_primary_image_is_the_photograph() -> None:
    data = BytesIO()
    other = Image.fromarray(make_picture(9, 32))
    other.save(
        data,
        "HEIF",
        save_all=True,
        append_images=[Image.fromarray(UPRIGHT)],
        primary_index=1,
        quality=95,
    )
    pixels = decode_pixels(data.getvalue())
    assert pixels.shape == UPRIGHT.shape
    assert np.abs(pixels.astype(int) - UPRIGHT).mean() < 3


def test_tiles_are_joined() -> None:
    """Phones store photos as grids of tiles."""
    picture = make_picture(3, 200)[:150]
    pixels = decode_pixels(encode(picture, "HEIF", quality=95, tile_size=64))
    assert pixels.shape == picture.shape
    assert np.abs(pixels.astype(int) - picture).mean() < 3


@pytest.mark.parametrize("form", FORMATS)
def test_brand_of_the_container_hides_no_format(form: str) -> None:
    data = make_photo(form)
    assert decode_in_sandbox([data[:8] + b"mif1" + data[12:]]) == [form]


def test_animations_are_refused() -> None:
    sequence = bytearray(make_photo("HEIF"))
    sequence[8:12] = b"hevc"
    files = [encode_animation("AVIF"), bytes(sequence)]
    assert decode_in_sandbox(files) == ["animation", "animation"]


@pytest.mark.parametrize("form", FORMATS)
def test_truncated_file_is_refused_at_any_length(form: str) -> None:
    data = make_photo(form, size=100)
    cuts = [data[: int(len(data) * share)] for share in (0.05, 0.3, 0.6, 0.9)] + [data[:-1]]
    assert decode_in_sandbox([*cuts, data]) == ["damaged"] * 5 + [form]


def test_announced_size_is_checked_before_decoding() -> None:
    files = [
        with_announced_size(make_photo("AVIF", size=64), 12_000, 12_000),
        with_announced_size(make_photo("HEIF", size=64), 20_000, 20_000),
    ]
    assert decode_in_sandbox(files, max_pixels=64_000_000) == ["pixels", "pixels"]


def test_memory_and_time_are_bounded() -> None:
    large = [encode(Image.new("RGB", (4000, 3000)), form, quality=50) for form in FORMATS]
    small = [make_photo(form) for form in FORMATS]
    mixed = [large[0], small[0], large[1], small[1]]
    outcomes = decode_in_sandbox(mixed, max_memory=64 << 20)
    assert outcomes == ["memory", "AVIF", "memory", "HEIF"]
    assert decode_in_sandbox(mixed, max_memory=256 << 20) == ["AVIF", "AVIF", "HEIF", "HEIF"]
    assert decode_in_sandbox(large, max_seconds=0.005) == ["timeout", "timeout"]


def test_format_that_is_not_allowed_is_named() -> None:
    rules = RULES._replace(formats=("JPEG",))
    for form in FORMATS:
        failure = refuse(make_photo(form), rules)
        assert failure == ("format", f"{form}, which is not in preprocess.limits.formats")


def test_video_is_refused() -> None:
    video = b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(100)
    failure = refuse(video)
    assert failure.reason == "format"
    assert "not one of" in failure.detail


def test_missing_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = {form: make_photo(form) for form in FORMATS}
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for form, package in (("AVIF", "this build of Pillow"), ("HEIF", "pillow-heif")):
        header, text = decoder.respond(photos[form], RULES)
        assert decoder.RESPONSE_HEADER.unpack(header)[0] is False
        assert b'["format", ' in bytes(text)
        assert package.encode() in bytes(text)


def test_folder_with_photos_of_phones_is_prepared(prepare: Prepare, tmp_path: Path) -> None:
    make_class_folder(tmp_path / "raw", per_class=12)
    cats = tmp_path / "raw" / "cat"
    names = {"a.avif": "AVIF", "b.heic": "HEIF", "C.HEIC": "HEIF", "d.heif": "HEIF"}
    for seed, (name, form) in enumerate(names.items(), 500):
        (cats / name).write_bytes(make_photo(form, seed))
    (cats / "heic called.jpg").write_bytes(make_photo("HEIF", 600))
    (cats / "avif called.heic").write_bytes(make_photo("AVIF", 601))
    (cats / "jpeg called.heic").write_bytes(encode(make_picture(602), "JPEG"))
    out = prepare("raw", image_size=16, max_quarantined_fraction=0.5)
    assert {f"cat/{name}" for name in names} <= read_splits(out).keys()
    assert read_quarantine(out) == {
        f"cat/{name}": "extension"
        for name in ("heic called.jpg", "avif called.heic", "jpeg called.heic")
    }
