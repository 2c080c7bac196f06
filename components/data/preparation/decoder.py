"""Image files to pixels, as a program of its own: bytes on its input, frames on its output, bounded in memory and time.

It runs as a child of `components.data.preparation.sandbox`, with nothing to lose: what a hostile file does to it costs
that one image.
What becomes of what Pillow calls modes:

- orientation (EXIF, XMP) is applied; 1, L, P and RGB are what they show;
- transparency (LA, PA, RGBA, a transparent palette entry or colour) is laid over a grey level;
- CMYK and YCbCr become RGB by their plain formulas, colour profiles are not applied;
- 16 bits per channel become 8 by scaling 0..65535 to 0..255; 32-bit integers, reals and LAB have no stated range: refused.
"""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import struct
import sys
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from simplejpeg import decode_jpeg

# Of an answer: whether it is an image; height and width of the picture, then of the pixels sent; channels; digest of the
# picture's pixels; format; bytes of text and of pixels that follow. With an image come _GREY bytes more.
FRAME = struct.Struct("<?5I32s8sIQ")
LENGTH = struct.Struct("<Q")
GREY_SIDE = 32
READY = b"ready"

_PLAIN = {"1", "L", "RGB", "P", "CMYK", "YCbCr", "RGBX", "LA", "La", "PA", "RGBA", "RGBa"}
_SIXTEEN = {"I;16", "I;16L", "I;16B", "I;16N"}
_ROTATED = {"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"}


class Rules(NamedTuple):
    """How images are made uniform. `size` and `channels` are None for their own; `pixels` is the most that a header may
    announce, `seconds` and `memory` (bytes) what decoding one file may take; `strict` refuses JPEG that libjpeg warns of."""

    size: int | None
    channels: int | None
    background: int
    formats: tuple[str, ...]
    pixels: int
    seconds: float
    memory: int
    strict: bool


class RefusedError(Exception):
    """An image that is not used: reason and detail."""


class Decoded(NamedTuple):
    """`pixels` are `uint8 (H, W, C)`; `grey`, `uint8 (32, 32)`, and `size`, (height, width), are of the whole picture."""

    pixels: np.ndarray
    grey: np.ndarray
    size: tuple[int, int]
    digest: bytes
    format: str


def decode(data: bytes, rules: Rules) -> Decoded:
    """Raises `RefusedError`, or whatever Pillow raises on a damaged file."""
    image = _header(data, rules)
    form = "JPEG" if image.format == "MPO" else str(image.format)
    raw = None
    if form == "JPEG" and image.mode in ("L", "RGB"):
        # As Pillow decodes, to the bit, and ten times as fast; but Pillow takes what libjpeg warns of (a scan that ends too
        # early, garbage within) without a word.
        pixels = decode_jpeg(data, "GRAY" if image.mode == "L" else "RGB", strict=rules.strict)
        info = image.info
        image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
        image.info, raw = info, pixels.data
    else:
        image.load()
    if not _ROTATED.isdisjoint(image.info) and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        ImageOps.exif_transpose(image, in_place=True)
        raw = None
    return uniform(image, rules, form, raw)


def uniform(image: Image.Image, rules: Rules, form: str, raw: memoryview | bytes | None = None) -> Decoded:
    """A picture brought to the rules' size and channels, with its digest and its thumbnail. Raises `RefusedError`.

    `raw` are its pixels where they are at hand already.
    """
    plain = _plain(image, rules)
    raw = raw if raw is not None and plain is image else plain.tobytes()
    image, channels = plain, len(plain.getbands())
    digest = hashlib.sha256(f"{image.height}x{image.width}x{channels}:".encode())
    digest.update(raw)
    fitted = fit(image, rules.size)
    pixels = np.frombuffer(raw if fitted is image else fitted.tobytes(), np.uint8)
    pixels = pixels.reshape(fitted.height, fitted.width, channels)
    grey = image if channels == 1 else image.convert("L")
    if grey.size != (GREY_SIDE, GREY_SIDE):
        grey = grey.resize((GREY_SIDE, GREY_SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    thumbnail = np.frombuffer(grey.tobytes(), np.uint8).reshape(GREY_SIDE, GREY_SIDE)
    return Decoded(pixels, thumbnail, (image.height, image.width), digest.digest(), form)


def fit(image: Image.Image, size: int | None) -> Image.Image:
    """The largest central square at `size` pixels, bilinear and antialiased; the picture itself if it is that already."""
    if size is None or image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)


def _header(data: bytes, rules: Rules) -> Image.Image:
    """The image, known by its header alone and found acceptable."""
    if not data:
        raise RefusedError("empty", "no bytes")
    try:
        image = Image.open(BytesIO(data), formats=rules.formats)
    except UnidentifiedImageError:
        known = ", ".join(rules.formats)
        raise RefusedError("format", f"not one of {known}; starts with {data[:8].hex()}") from None
    if image.width * image.height > rules.pixels:
        announced = f"the header announces {image.width} x {image.height} pixels"
        raise RefusedError("pixels", f"{announced}; preprocess.limits.max_megapixels allows {rules.pixels:,}")
    # Phones append a depth map or a second exposure: the first picture of an MPO file is the photograph.
    frames = getattr(image, "n_frames", 1) if image.format not in ("JPEG", "MPO", "BMP") else 1
    if frames > 1:
        raise RefusedError("animation", f"{frames} frames or pages")
    return image


def _plain(image: Image.Image, rules: Rules) -> Image.Image:
    """The picture as L or RGB."""
    if image.mode in _SIXTEEN:
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode not in _PLAIN:
        raise RefusedError("colour mode", f"{image.mode} has no stated range of values")
    if image.has_transparency_data:
        below = Image.new("RGBA", image.size, (rules.background,) * 3 + (255,))
        below.alpha_composite(image if image.mode == "RGBA" else image.convert("RGBA"))
        image = below
    channels = rules.channels or (1 if image.mode == "L" else 3)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def confine(rules: Rules) -> None:
    """Bounds this process: memory beyond what it has now, no core dump, no file written; SIGALRM ends it."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    if now:
        resource.setrlimit(resource.RLIMIT_AS, (now + rules.memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's end closes the input


def answer(data: bytes, rules: Rules) -> list[Any]:
    try:
        found = decode(data, rules)
    except RefusedError as refused:
        return _refusal(*refused.args)
    except MemoryError:
        return _refusal("memory", f"decoding wants more than preprocess.limits.decode_mb ({rules.memory >> 20})")
    except Exception as error:  # noqa: BLE001 (a damaged file makes Pillow's plugins raise anything)
        return _refusal("damaged", f"{type(error).__name__}: {error}")
    form = found.format.encode()
    head = FRAME.pack(True, *found.size, *found.pixels.shape, found.digest, form, 0, found.pixels.nbytes)
    return [head, found.pixels.data, found.grey.data]


def _refusal(reason: str, detail: str) -> list[Any]:
    text = json.dumps([reason, detail[:300]]).encode()
    return [FRAME.pack(False, 0, 0, 0, 0, 0, bytes(32), b"", len(text), 0), text]


def serve(source: IO[bytes], sink: IO[bytes], rules: Rules) -> None:
    """Answers requests, each a number of lengths (the number first) and the files, until the input ends."""
    while head := source.read(LENGTH.size):
        count = LENGTH.unpack(head)[0]
        lengths = struct.unpack(f"<{count}Q", source.read(8 * count))
        files = [source.read(length) for length in lengths]
        for data in files:
            # The kernel ends the process, even in the midst of a decoder's loop.
            signal.setitimer(signal.ITIMER_REAL, rules.seconds)
            parts = answer(data, rules)
            signal.setitimer(signal.ITIMER_REAL, 0)
            for part in parts:
                sink.write(part)
            sink.flush()


if __name__ == "__main__":
    Image.MAX_IMAGE_PIXELS = None  # the header is judged above
    Image.init()
    rules = Rules(*json.loads(sys.argv[1]))
    confine(rules)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    serve(sys.stdin.buffer, sys.stdout.buffer, rules)
