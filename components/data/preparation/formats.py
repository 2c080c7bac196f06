"""Recognition of image formats by content, and opening of files. No pixels are decoded here.

AVIF and HEIF share a container, whose first box lists brands. Pillow and pillow-heif look at the
first brand only, which may be that of the container (`mif1`). This module looks at all of them.
"""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO

from PIL import AvifImagePlugin, Image, UnidentifiedImageError, features

from components.data.preparation.rules import DecoderRules, RefusedError
from components.data.sources.files.iso_brands import (
    AVIF_BRANDS,
    CONTAINER_BRANDS,
    HEVC_BRANDS,
    HEVC_SEQUENCE_BRANDS,
)

# Most brands that are looked at; files list three to ten.
_MAX_BRANDS = 32
# Formats in which the first or primary picture is the photograph, whatever follows: phones append
# depth maps, gain maps or a second exposure.
_PRIMARY_IMAGE_FORMATS = {"JPEG", "MPO", "BMP", "HEIF"}


def load_codecs() -> None:
    """Load all decoders, each limited to one thread.

    The limit of a process's memory counts address space. Each further thread would take more than
    64 MiB of it.
    """
    Image.MAX_IMAGE_PIXELS = None  # `open_image` checks the number of pixels.
    Image.init()
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.options.DECODE_THREADS = 1
        pillow_heif.options.THUMBNAILS = False
        pillow_heif.options.DEPTH_IMAGES = False
        pillow_heif.options.AUX_IMAGES = False


def open_image(data: bytes, rules: DecoderRules) -> Image.Image:
    """Open an image and check its header.

    Raises:
        RefusedError: the rules do not accept it.
        Exception: the header is damaged; Pillow's plugins raise any type.
    """
    if not data:
        raise RefusedError("empty", "no bytes")
    match _identify_container(data):
        case "AVIF":
            image = _open_avif(data, rules)
        case "HEIF":
            image = _open_heif(data, rules)
        case _:
            image = _open_other(data, rules)
    if image.width * image.height > rules.max_pixels:
        announced = f"the header announces {image.width} x {image.height} pixels"
        limit = f"preprocess.limits.max_megapixels allows {rules.max_pixels:,}"
        raise RefusedError("pixels", f"{announced}; {limit}")
    frames = 1 if image.format in _PRIMARY_IMAGE_FORMATS else getattr(image, "n_frames", 1)
    if frames > 1:
        raise RefusedError("animation", f"{frames} frames or pages")
    return image


def _list_brands(data: bytes) -> list[bytes]:
    """Return the brands of an ISO base media file (ISO/IEC 14496-12), the major brand first."""
    if data[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(data[:4], "big"), len(data), 16 + 4 * _MAX_BRANDS)
    return [data[8:12], *(data[start : start + 4] for start in range(16, end - 3, 4))]


def _identify_container(data: bytes) -> str | None:
    """Return "AVIF", "HEIF", or None for any other content, such as a video."""
    brands = _list_brands(data)
    for brand in brands:
        if brand in AVIF_BRANDS:
            return "AVIF"
        if brand in HEVC_BRANDS:
            return "HEIF"
    return "HEIF" if not CONTAINER_BRANDS.isdisjoint(brands) else None


def _open_avif(data: bytes, rules: DecoderRules) -> Image.Image:
    _check_format("AVIF", rules)
    if not features.check("avif"):
        raise RefusedError(
            "format",
            "AVIF, which this build of Pillow cannot decode; install Pillow from PyPI "
            "(`make setup`) or convert the file to PNG",
        )
    image = AvifImagePlugin.AvifImageFile(BytesIO(data))
    # Pillow returns the container's rotation as EXIF orientation, which is right: the container
    # overrides EXIF. It does not override XMP.
    image.info.pop("xmp", None)
    return image


def _open_heif(data: bytes, rules: DecoderRules) -> Image.Image:
    _check_format("HEIF", rules)
    brand = _list_brands(data)[0]
    if brand in HEVC_SEQUENCE_BRANDS or brand == b"msf1":
        raise RefusedError("animation", f"a HEIF image sequence (brand {brand.decode()})")
    try:
        import pillow_heif
    except ImportError:
        raise RefusedError(
            "format",
            "HEIF, and the package pillow-heif is not installed; "
            "run `make setup` or convert the file to JPEG",
        ) from None
    image: Image.Image = pillow_heif.HeifImageFile(BytesIO(data))  # type: ignore[no-untyped-call]
    # libheif applies the container's rotation, and EXIF repeats it.
    image.info = {}
    return image


def _check_format(form: str, rules: DecoderRules) -> None:
    if form not in rules.formats:
        raise RefusedError("format", f"{form}, which is not in preprocess.limits.formats")


def _open_other(data: bytes, rules: DecoderRules) -> Image.Image:
    if data.startswith(b"version https://git-lfs"):
        raise RefusedError("format", "a pointer of Git LFS, not the image; run `git lfs pull`")
    formats = [form for form in rules.formats if form not in ("AVIF", "HEIF")]
    try:
        return Image.open(BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        known = ", ".join(rules.formats)
        raise RefusedError("format", f"not one of {known}; starts with {data[:8].hex()}") from None
