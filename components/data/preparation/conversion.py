"""Conversion of pictures to the size and channels that the rules state.

Conversion of Pillow's image modes:

- 1, L, P and RGB keep their appearance.
- Transparency (LA, PA, RGBA, a transparent palette entry or colour) is blended with a grey level.
- CMYK and YCbCr are converted to RGB by Pillow's formulas; colour profiles are not applied.
- 16 bits per channel are scaled from 0..65535 to 0..255.
- 32-bit integers, floats and LAB are refused, because their range of values is not defined.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from components.data.preparation.rules import DecoderRules, RefusedError

THUMBNAIL_SIDE = 32

_EIGHT_BIT_MODES = {
    "1", "L", "RGB", "P", "CMYK", "YCbCr", "RGBX", "LA", "La", "PA", "RGBA", "RGBa"
}  # fmt: skip
_SIXTEEN_BIT_MODES = {"I;16", "I;16L", "I;16B", "I;16N"}
# With this gap, an image is reduced by an integer factor first. The result is nearly the same.
_REDUCING_GAP = 3.0

Buffer = bytes | memoryview


class DecodedImage(NamedTuple):
    """One decoded image.

    `pixels` are `uint8 (H, W, C)`, converted by the rules. The other fields describe the picture
    before it is resized: `thumbnail` is grey, `uint8 (32, 32)`, `size` is (height, width), and
    `digest` is the SHA-256 of the pixels.
    """

    pixels: np.ndarray
    thumbnail: np.ndarray
    size: tuple[int, int]
    digest: bytes
    format: str


def to_image(pixels: np.ndarray) -> Image.Image:
    """Return `uint8 (H, W, C)` as a Pillow image."""
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)


def convert(
    image: Image.Image, rules: DecoderRules, form: str, raw: Buffer | None = None
) -> DecodedImage:
    """Convert a picture to the size and channels of the rules; compute its digest and thumbnail.

    Args:
        raw: The bytes of the picture's pixels, if the caller has them.

    Raises:
        RefusedError: the range of the picture's values is not defined.
    """
    picture = _to_grey_or_rgb(image, rules)
    if raw is None or picture is not image:
        raw = picture.tobytes()
    channels = len(picture.getbands())
    digest = hashlib.sha256(f"{picture.height}x{picture.width}x{channels}:".encode())
    digest.update(raw)
    resized = resize(picture, rules)
    flat = np.frombuffer(raw if resized is picture else resized.tobytes(), np.uint8)
    return DecodedImage(
        pixels=flat.reshape(resized.height, resized.width, channels),
        thumbnail=_make_thumbnail(picture),
        size=(picture.height, picture.width),
        digest=digest.digest(),
        format=form,
    )


def resize(picture: Image.Image, rules: DecoderRules) -> Image.Image:
    """Resize a picture of mode L or RGB to `rules.image_size`, bilinear and antialiased.

    - `crop` scales the largest central box that has the aspect ratio of `image_size`.
    - `pad` scales the whole picture to fit, and fills the rest with the background.
    - `stretch` scales height and width independently.

    Returns the picture itself if it has that size already or the rules keep its own.
    """
    if rules.image_size is None:
        return picture
    height, width = rules.image_size
    if picture.size == (width, height):
        return picture
    match rules.resize:
        case "crop":
            return _scale(picture, (width, height), _find_crop_box(picture.size, (width, height)))
        case "pad":
            return _pad(picture, (width, height), rules.background)
        case "stretch":
            return _scale(picture, (width, height))


def _scale(
    picture: Image.Image,
    size: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Scale a box of a picture, by default all of it, to a size (width, height)."""
    return picture.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=_REDUCING_GAP)


def _find_crop_box(
    picture: tuple[int, int], target: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the largest central box with the target's aspect ratio.

    Both sizes are (width, height).
    """
    width = min(picture[0], picture[1] * target[0] / target[1])
    height = min(picture[1], picture[0] * target[1] / target[0])
    left = (picture[0] - width) / 2
    top = (picture[1] - height) / 2
    return left, top, left + width, top + height


def _pad(picture: Image.Image, target: tuple[int, int], background: int) -> Image.Image:
    """Scale a picture to fit into the target, (width, height), and centre it on the background."""
    factor = min(target[0] / picture.width, target[1] / picture.height)
    width = min(target[0], max(1, round(picture.width * factor)))
    height = min(target[1], max(1, round(picture.height * factor)))
    scaled = picture if picture.size == (width, height) else _scale(picture, (width, height))
    if (width, height) == target:
        return scaled
    colour = background if picture.mode == "L" else (background,) * 3
    canvas = Image.new(picture.mode, target, colour)
    canvas.paste(scaled, ((target[0] - width) // 2, (target[1] - height) // 2))
    return canvas


def _make_thumbnail(picture: Image.Image) -> np.ndarray:
    """Return a picture in grey, `uint8 (32, 32)`; its aspect ratio is not kept."""
    grey = picture if picture.mode == "L" else picture.convert("L")
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    if grey.size != size:
        grey = _scale(grey, size)
    return np.frombuffer(grey.tobytes(), np.uint8).reshape(size)


def _to_grey_or_rgb(image: Image.Image, rules: DecoderRules) -> Image.Image:
    """Return a picture in mode L or RGB; the picture itself if it has the right mode already."""
    if image.mode in _SIXTEEN_BIT_MODES:
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode not in _EIGHT_BIT_MODES:
        raise RefusedError("colour mode", f"{image.mode} has no stated range of values")
    if image.has_transparency_data:
        blended = Image.new("RGBA", image.size, (rules.background,) * 3 + (255,))
        blended.alpha_composite(image if image.mode == "RGBA" else image.convert("RGBA"))
        image = blended
    channels = rules.channels or (1 if image.mode == "L" else 3)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)
