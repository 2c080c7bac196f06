"""Resizing: crop, pad and stretch, what they cost, and the advice about sizes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.data.preparation.conversion import convert, resize
from components.data.preparation.resizing import compute_mismatch
from components.data.preparation.rules import DecoderRules
from components.errors import UserError
from components.params import Preprocess
from tests.conftest import make_images, write_idx
from tests.unit.data.hostile import encode, make_class_folder, make_picture
from tests.unit.data.prepared import Prepare, read_pixels, read_splits
from tests.unit.data.test_sandbox import RULES

CROP = RULES._replace(image_size=(12, 20), background=7)
PAD = CROP._replace(resize="pad")
STRETCH = CROP._replace(resize="stretch")
SOURCE = {"kind": "image_folder", "path": "raw"}


def resize_pixels(pixels: np.ndarray, rules: DecoderRules) -> np.ndarray:
    return np.asarray(resize(Image.fromarray(pixels), rules))


def make_stripes(height: int, width: int) -> np.ndarray:
    """Return a dark picture with a bright border of a tenth of its longer side at both ends."""
    pixels = np.full((height, width, 3), 50, np.uint8)
    border = max(height, width) // 10
    if width > height:
        pixels[:, :border] = pixels[:, -border:] = 250
    else:
        pixels[:border] = pixels[-border:] = 250
    return pixels


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (33, 97), (40, 40), (10, 9), (501, 4)])
def test_square_crops_have_the_bytes_of_the_largest_central_square(shape: tuple[int, int]) -> None:
    picture = Image.fromarray(make_picture(1, 520)[: shape[0], : shape[1]].copy())
    side = min(picture.size)
    left = (picture.width - side) / 2
    top = (picture.height - side) / 2
    expected = picture.resize(
        (16, 16),
        Image.Resampling.BILINEAR,
        box=(left, top, left + side, top + side),
        reducing_gap=3.0,
    )
    assert resize(picture, RULES).tobytes() == expected.tobytes()


def test_crop_keeps_the_centre() -> None:
    for shape in ((60, 400), (400, 20)):
        assert np.abs(resize_pixels(make_stripes(*shape), CROP).astype(int) - 50).max() == 0


def test_pad_keeps_the_whole_picture_and_fills_with_the_background() -> None:
    wide = resize_pixels(make_stripes(60, 200), PAD)  # becomes 6 x 20
    assert wide.shape == (12, 20, 3)
    assert (wide[:3] == 7).all()
    assert (wide[9:] == 7).all()
    assert (wide[3:9, 0] > 200).all()
    assert (wide[3:9, -1] > 200).all()
    assert (wide[3:9, 10] == 50).all()
    tall = resize_pixels(make_stripes(200, 20)[..., 0], PAD)  # grey; becomes 12 x 1
    assert (tall[:, :9] == 7).all()
    assert (tall[:, 10:] == 7).all()
    assert tall[0, 9] > 200


def test_pad_of_a_thread_keeps_one_pixel() -> None:
    assert (resize_pixels(np.full((4000, 2), 90, np.uint8), PAD) == 90).sum() == 12
    assert (resize_pixels(np.full((2, 4000), 90, np.uint8), PAD) == 90).sum() == 20


def test_stretch_scales_both_sides() -> None:
    wide = resize_pixels(make_stripes(60, 200), STRETCH)
    assert (wide[:, 0] == 250).all()
    assert (wide[:, 10] == 50).all()
    assert (wide[0] == wide[11]).all()


@pytest.mark.parametrize("rules", [CROP, PAD, STRETCH])
def test_picture_of_the_target_size_is_unchanged(rules: DecoderRules) -> None:
    picture = Image.fromarray(make_picture(2, 20)[:12].copy())
    assert resize(picture, rules) is picture


@pytest.mark.parametrize("rules", [CROP, PAD, STRETCH])
def test_picture_of_the_target_aspect_ratio_is_only_scaled(rules: DecoderRules) -> None:
    pixels = make_picture(2, 100)[:60]
    expected = Image.fromarray(pixels).resize((20, 12), Image.Resampling.BILINEAR, reducing_gap=3)
    assert np.array_equal(resize_pixels(pixels, rules), np.asarray(expected))


def test_mismatch_is_the_share_that_is_cut_or_filled() -> None:
    heights = np.array([600, 24, 12, 100])
    widths = np.array([24, 600, 20, 100])
    square = compute_mismatch(heights, widths, (64, 64))
    assert np.allclose(square, [0.96, 0.96, 0.4, 0])
    wide = compute_mismatch(heights, widths, (12, 20))
    assert np.allclose(wide, [1 - 0.04 * 0.6, 1 - 24 * 20 / (600 * 12), 0, 0.4])
    padded = convert(Image.fromarray(np.full((100, 100), 90, np.uint8)), PAD, "array").pixels
    assert (padded == 7).mean() == pytest.approx(wide[3])


def write_strips(root: Path, per_class: int = 20) -> None:
    """Write square pictures, and one of 24 x 600 pixels in the class dog."""
    make_class_folder(root, per_class=per_class)
    (root / "dog/strip.png").write_bytes(encode(make_picture(5, 600)[:, :24].copy()))


def test_heavily_cut_pictures_are_reported_and_warned_about(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_strips(tmp_path / "raw")
    out = prepare("raw", image_size=16)
    effect = (
        "crop cuts 2.3% of a picture's area on average, at most 96.0% "
        "(dog/strip.png, height 600, width 24)"
    )
    printed = capsys.readouterr().out
    assert (
        f"warning: {effect}. Images that lose more than 60%: 1 of 41; "
        "`preprocess.resize: pad` keeps whole pictures" in printed
    )
    page = (out / "report.html").read_text().replace("&#39;", "'")
    assert page.count(effect) == 2
    prepare("raw", "padded", image_size=16, resize="pad")
    assert "pad fills 2.3% of an image with the background" in capsys.readouterr().out


def test_slightly_cut_pictures_are_reported_without_a_warning(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_class_folder(tmp_path / "raw", per_class=20)
    (tmp_path / "raw/dog/wide.png").write_bytes(encode(make_picture(5, 40)[:30].copy()))
    page = (prepare("raw", image_size=16) / "report.html").read_text()
    assert "at most 25.0% (dog/wide.png, height 30, width 40)" in page
    assert "crop cuts" not in capsys.readouterr().out


def test_wide_pictures_get_advice_about_a_wide_size(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for n in range(20):
            pixels = make_picture(100 * (name == "dog") + n, 96)[:32].copy()
            (tmp_path / "raw" / name / f"{n}.png").write_bytes(encode(pixels))
    prepare("raw", image_size=32)
    assert "`preprocess.image_size: [16, 56]` is nearer to most pictures" in capsys.readouterr().out
    pixels = read_pixels(prepare("raw", "wide", image_size=[16, 56]))
    assert {image.shape for image in pixels.values()} == {(16, 56, 3)}


def test_padded_rectangles_reach_the_shards(prepare: Prepare, tmp_path: Path) -> None:
    write_strips(tmp_path / "raw")
    out = prepare("raw", image_size=[12, 20], resize="pad", background=7)
    strip = read_pixels(out)["dog/strip.png"]
    assert strip.shape == (12, 20, 3)
    assert (strip[:, :9] == 7).all()


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_arrays_get_the_same_treatment_as_files(
    prepare: Prepare, tmp_path: Path, resize: str
) -> None:
    pictures = [make_picture(n, 40)[:30].copy() for n in range(60)]
    labels = [f"class {n % 2}" for n in range(60)]
    arrays = pa.table({"image": [picture.tolist() for picture in pictures], "label": labels})
    pq.write_table(arrays, tmp_path / "arrays.parquet")
    files = pa.table({"image": [encode(picture) for picture in pictures], "label": labels})
    pq.write_table(files, tmp_path / "files.parquet")
    by_kind = []
    for name in ("arrays", "files"):
        out = prepare(
            f"{name}.parquet", name, kind="parquet", image_size=[12, 20], resize=resize, channels=3
        )
        pixels = read_pixels(out)
        by_kind.append({key.rpartition("/")[2]: value for key, value in pixels.items()})
    assert by_kind[0].keys() == by_kind[1].keys()
    assert all(np.array_equal(by_kind[0][key], by_kind[1][key]) for key in by_kind[0])


def test_idx_arrays_become_rectangles(prepare: Prepare, tmp_path: Path) -> None:
    write_idx(tmp_path / "raw", make_images(60), make_images(30, seed=1, prefix="test"))
    out = prepare("raw", kind="idx", image_size=[8, 16], resize="pad")
    assert {image.shape for image in read_pixels(out).values()} == {(8, 16, 1)}
    assert len(read_splits(out)) == 90


def test_different_sizes_without_image_size_get_a_proposal(
    prepare: Prepare, tmp_path: Path
) -> None:
    make_class_folder(tmp_path / "raw", per_class=20, size=50)
    (tmp_path / "raw/dog/wide.png").write_bytes(encode(make_picture(5, 90)[:70].copy()))
    message = (
        "images differ in height, width or channels: cat/000.jpg (50x50x3), dog/wide.png (70x90x3);"
        " set preprocess.image_size in params.yaml, for example to 48 for squares of 48 x 48 or to "
        "[height, width]; preprocess.resize (crop, pad or stretch)"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        prepare("raw")


def test_large_images_without_image_size_get_a_proposal(prepare: Prepare, tmp_path: Path) -> None:
    make_class_folder(tmp_path / "raw", per_class=3, size=1100)
    with pytest.raises(UserError, match=r"1100 x 1100 pixels .*for example to 224 for squares"):
        prepare("raw")


@pytest.mark.parametrize(
    ("value", "size"), [(None, None), (8, (8, 8)), (1024, (1024, 1024)), ([12, 20], (12, 20))]
)
def test_image_size_is_a_side_or_height_and_width(
    value: object, size: tuple[int, int] | None
) -> None:
    settings = Preprocess.model_validate({"source": SOURCE, "image_size": value})
    assert settings.target_size == size


@pytest.mark.parametrize("value", ["64", True, 7, 1025, [64], [64, 4], [64, 64, 3], 64.0, "12x20"])
def test_wrong_image_size_is_refused_with_the_right_forms(value: object) -> None:
    with pytest.raises(ValueError, match=r"one side of a square or \[height, width\] is needed"):
        Preprocess.model_validate({"source": SOURCE, "image_size": value})
