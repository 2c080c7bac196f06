"""Decoding of untrusted image files: a program that runs as a child of `sandbox.Sandbox`.

It reads requests from standard input and writes responses to standard output. Its memory and time
are bounded, and it cannot write files. If a hostile file kills it, only that image is lost. It
imports `conversion`, `formats` and `rules` beside it, which import `sources.files.iso_brands`, and
no other module of Kiln.

The orientation (EXIF, XMP, the rotation and mirroring of AVIF and HEIF) is applied once.
`conversion` states the other rules.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from PIL import ExifTags, ImageOps
from simplejpeg import decode_jpeg

from components.data.preparation.conversion import Buffer, DecodedImage, convert, to_image
from components.data.preparation.formats import load_codecs, open_image
from components.data.preparation.rules import DecoderRules, RefusedError

# Header of a response: True for an image; height and width of the picture; height, width and
# channels of the pixels; digest of the picture's pixels; format; bytes of text; bytes of pixels.
# The text or the pixels follow, and the thumbnail after the pixels.
RESPONSE_HEADER = struct.Struct("<?5I32s8sIQ")
LENGTH = struct.Struct("<Q")
READY = b"ready"

# Messages of libavif and libheif, which raise other types than `MemoryError`.
_OUT_OF_MEMORY = re.compile(r"out of memory|allocating \d+ bytes failed", re.IGNORECASE)
# Keys of `Image.info` that may contain an orientation.
_ORIENTATION_KEYS = {"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"}


def decode(data: bytes, rules: DecoderRules) -> DecodedImage:
    """Decode one image file.

    Raises:
        RefusedError: the rules do not accept it.
        Exception: the file is damaged; Pillow's plugins raise any type.
    """
    image = open_image(data, rules)
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
    except Exception as error:  # noqa: BLE001 (a damaged file makes Pillow's plugins raise anything)
        if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
            limit = f"preprocess.limits.decode_mb ({rules.max_memory >> 20})"
            return _pack_refusal("memory", f"decoding wants more than {limit}")
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
    load_codecs()
    rules = DecoderRules(*json.loads(sys.argv[1]))
    confine_process(rules)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    serve(sys.stdin.buffer, sys.stdout.buffer, rules)
