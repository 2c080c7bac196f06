"""Decoding of untrusted image files: a program that runs as a child of `sandbox.Sandbox`.

It reads requests from standard input and writes responses to standard output. Its memory and time
are bounded, and it cannot write files. If a hostile file kills it, only that image is lost. It
imports no other module of Kiln, because the child runs this file alone.

Conversion of Pillow's image modes:

- The orientation (EXIF, XMP) is applied.
- 1, L, P and RGB keep their appearance.
- Transparency (LA, PA, RGBA, a transparent palette entry or colour) is blended with a grey level.
- CMYK and YCbCr are converted to RGB by Pillow's formulas; colour profiles are not applied.
- 16 bits per channel are scaled from 0..65535 to 0..255.
- 32-bit integers, floats and LAB are refused, because their range of values is not defined.
"""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import struct
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from simplejpeg import decode_jpeg

# Header of a response: True for an image; height and width of the picture; height, width and
# channels of the pixels; digest of the picture's pixels; format; bytes of text; bytes of pixels.
# The text or the pixels follow, and the thumbnail after the pixels.
RESPONSE_HEADER = struct.Struct("<?5I32s8sIQ")
LENGTH = struct.Struct("<Q")
THUMBNAIL_SIDE = 32
READY = b"ready"

_EIGHT_BIT_MODES = {
    "1", "L", "RGB", "P", "CMYK", "YCbCr", "RGBX", "LA", "La", "PA", "RGBA", "RGBa"
}  # fmt: skip
_SIXTEEN_BIT_MODES = {"I;16", "I;16L", "I;16B", "I;16N"}
# Keys of `Image.info` that may contain an orientation.
_ORIENTATION_KEYS = {"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"}

Buffer = bytes | memoryview


class DecoderRules(NamedTuple):
    """Bounds on files, and the form that every image is converted to."""

    image_size: int | None
    """Height and width of the pixels; None keeps those of the picture."""
    channels: int | None
    """1 or 3; None keeps grey pictures grey."""
    background: int
    """Grey level behind transparent pixels."""
    formats: tuple[str, ...]
    """Accepted formats, by Pillow's names."""
    max_pixels: int
    """Most pixels that a file's header may announce."""
    max_seconds: float
    """Time for decoding one file."""
    max_memory: int
    """Memory for decoding one file, in bytes."""
    strict_jpeg: bool
    """Refuse JPEG files that libjpeg warns about."""


class RefusedError(Exception):
    """An image that is not used. Arguments are the reason and the detail."""


class DecodedImage(NamedTuple):
    """One decoded image.

    `pixels` are `uint8 (H, W, C)`, converted by the rules. The other fields describe the picture
    before it is cropped and resized: `thumbnail` is grey, `uint8 (32, 32)`, `size` is
    (height, width), and `digest` is the SHA-256 of the pixels.
    """

    pixels: np.ndarray
    thumbnail: np.ndarray
    size: tuple[int, int]
    digest: bytes
    format: str


def decode(data: bytes, rules: DecoderRules) -> DecodedImage:
    """Decode one image file.

    Raises:
        RefusedError: the rules do not accept it.
        Exception: the file is damaged; Pillow's plugins raise any type.
    """
    image = _open_image(data, rules)
    form = "JPEG" if image.format == "MPO" else str(image.format)
    raw: Buffer | None = None
    if form == "JPEG" and image.mode in ("L", "RGB"):
        # Call libjpeg directly: the pixels are bit-identical to Pillow's, and it is ten times as
        # fast. Pillow also hides libjpeg's warnings (a scan that ends too early, garbage within).
        color_space = "GRAY" if image.mode == "L" else "RGB"
        pixels = decode_jpeg(data, color_space, strict=rules.strict_jpeg)
        info = image.info
        image = to_image(pixels)
        image.info = info
        raw = pixels.data
    else:
        image.load()
    if (
        not _ORIENTATION_KEYS.isdisjoint(image.info)
        and image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    ):
        ImageOps.exif_transpose(image, in_place=True)
        raw = None
    return convert(image, rules, form, raw)


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
    resized = crop_and_resize(picture, rules.image_size)
    flat = np.frombuffer(raw if resized is picture else resized.tobytes(), np.uint8)
    return DecodedImage(
        pixels=flat.reshape(resized.height, resized.width, channels),
        thumbnail=_make_thumbnail(picture),
        size=(picture.height, picture.width),
        digest=digest.digest(),
        format=form,
    )


def crop_and_resize(image: Image.Image, size: int | None) -> Image.Image:
    """Scale the largest central square to `size` x `size` pixels, bilinear and antialiased.

    Returns the image itself if it has that size already or `size` is None.
    """
    if size is None or image.size == (size, size):
        return image
    side = min(image.size)
    left = (image.width - side) / 2
    top = (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)


def _make_thumbnail(picture: Image.Image) -> np.ndarray:
    """Return a picture in grey, `uint8 (32, 32)`; its aspect ratio is not kept."""
    grey = picture if picture.mode == "L" else picture.convert("L")
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    if grey.size != size:
        grey = grey.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.frombuffer(grey.tobytes(), np.uint8).reshape(size)


def _open_image(data: bytes, rules: DecoderRules) -> Image.Image:
    """Open an image and check its header. No pixels are decoded yet."""
    if not data:
        raise RefusedError("empty", "no bytes")
    try:
        image = Image.open(BytesIO(data), formats=rules.formats)
    except UnidentifiedImageError:
        known = ", ".join(rules.formats)
        raise RefusedError("format", f"not one of {known}; starts with {data[:8].hex()}") from None
    if image.width * image.height > rules.max_pixels:
        announced = f"the header announces {image.width} x {image.height} pixels"
        limit = f"preprocess.limits.max_megapixels allows {rules.max_pixels:,}"
        raise RefusedError("pixels", f"{announced}; {limit}")
    # Phones append a depth map or a second exposure: the first picture of an MPO file is the
    # photograph.
    frames = getattr(image, "n_frames", 1) if image.format not in ("JPEG", "MPO", "BMP") else 1
    if frames > 1:
        raise RefusedError("animation", f"{frames} frames or pages")
    return image


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


def confine_process(rules: DecoderRules) -> None:
    """Limit the further memory of this process; forbid core dumps and writing to files.

    SIGALRM kills the process, so that a timer can end a decoder's loop.
    """
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + rules.max_memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # Ctrl-C ends the parent, which closes standard input. That ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def respond(data: bytes, rules: DecoderRules) -> Sequence[Buffer]:
    """Decode one file and return the buffers of the response."""
    try:
        decoded = decode(data, rules)
    except RefusedError as error:
        return _pack_refusal(*error.args)
    except MemoryError:
        limit = f"preprocess.limits.decode_mb ({rules.max_memory >> 20})"
        return _pack_refusal("memory", f"decoding wants more than {limit}")
    except Exception as error:  # noqa: BLE001 (a damaged file makes Pillow's plugins raise anything)
        return _pack_refusal("damaged", f"{type(error).__name__}: {error}")
    header = RESPONSE_HEADER.pack(
        True,
        *decoded.size,
        *decoded.pixels.shape,
        decoded.digest,
        decoded.format.encode(),
        0,
        decoded.pixels.nbytes,
    )
    return [header, decoded.pixels.data, decoded.thumbnail.data]


def _pack_refusal(reason: str, detail: str) -> Sequence[Buffer]:
    text = json.dumps([reason, detail[:300]]).encode()
    header = RESPONSE_HEADER.pack(False, 0, 0, 0, 0, 0, bytes(32), b"", len(text), 0)
    return [header, text]


def serve(requests: IO[bytes], responses: IO[bytes], rules: DecoderRules) -> None:
    """Answer requests until the input ends.

    A request is the number of files, the length of each file, and the files. Numbers are
    `LENGTH`s. There is one response per file.
    """
    while head := requests.read(LENGTH.size):
        count = LENGTH.unpack(head)[0]
        lengths = struct.unpack(f"<{count}Q", requests.read(LENGTH.size * count))
        files = [requests.read(length) for length in lengths]
        for data in files:
            # The kernel kills the process at the time limit, even inside a decoder's C loop.
            signal.setitimer(signal.ITIMER_REAL, rules.max_seconds)
            buffers = respond(data, rules)
            signal.setitimer(signal.ITIMER_REAL, 0)
            for buffer in buffers:
                responses.write(buffer)
            responses.flush()


if __name__ == "__main__":
    Image.MAX_IMAGE_PIXELS = None  # `_open_image` checks the number of pixels.
    Image.init()
    rules = DecoderRules(*json.loads(sys.argv[1]))
    confine_process(rules)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    serve(sys.stdin.buffer, sys.stdout.buffer, rules)
