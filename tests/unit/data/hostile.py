"""Builders of class folders: good images, and every kind of file that must be refused."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 24


def make_picture(seed: int, size: int = SIZE) -> np.ndarray:
    """Return a smooth random picture, `uint8 (size, size, 3)`; seeds give distinct pictures."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def encode(image: Image.Image | np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    """Return an image as a file of the given format."""
    data = BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(data, form, **options)
    return data.getvalue()


def make_class_folder(
    root: Path, per_class: int = 40, classes: tuple[str, ...] = ("cat", "dog"), size: int = SIZE
) -> None:
    """Write a folder of distinct JPEG files for each class: `000.jpg`, `001.jpg`, ..."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for n in range(per_class):
            (root / name / f"{n:03d}.jpg").write_bytes(
                encode(make_picture(100_000 * number + n, size), "JPEG", quality=92)
            )


def encode_animation(form: str, **options: Any) -> bytes:
    """Return a file of three frames or pages."""
    images = [Image.fromarray(make_picture(n)) for n in range(900, 903)]
    return encode(images[0], form, save_all=True, append_images=images[1:], **options)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _with_chunk(data: bytes, chunk: bytes) -> bytes:
    """Insert a chunk into a PNG file, after the signature and the header."""
    return data[:33] + chunk + data[33:]


def make_png(width: int, height: int, data: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    """Return a PNG file with the given header, whatever its data are."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", zlib.compress(data, 9)) + _chunk(b"IEND", b"")
    )


@lru_cache(maxsize=1)
def make_huge_png(side: int) -> bytes:
    """Return a valid black PNG file of `side` x `side` pixels in a few hundred kilobytes."""
    compressor = zlib.compressobj(9)
    compressed = (
        b"".join(compressor.compress(bytes(side + 1)) for _ in range(side)) + compressor.flush()
    )
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", compressed) + _chunk(b"IEND", b"")


def _jpeg(seed: int) -> bytes:
    return encode(make_picture(seed), "JPEG")


def _broken_crc() -> bytes:
    data = bytearray(encode(make_picture(912)))
    data[20] ^= 0xFF
    return bytes(data)


def _closed_early() -> bytes:
    """Return a JPEG cut short, with the marker of its end."""
    return encode(make_picture(917, 200), "JPEG")[:-400] + b"\xff\xd9"


def _text_bomb() -> bytes:
    """Return a PNG whose compressed text unpacks to 80 MiB."""
    text = b"k\0\0" + zlib.compress(bytes(80 << 20))
    return _with_chunk(encode(make_picture(915)), _chunk(b"zTXt", text))


def _tiff(seed: int, dtype: type[np.generic]) -> bytes:
    """Return a TIFF of one channel with values of the given type."""
    return encode(make_picture(seed)[..., 0].astype(dtype), "TIFF")


def _lab_tiff() -> bytes:
    return encode(Image.fromarray(make_picture(914), mode="LAB"), "TIFF")


# Name in the class folder -> (function that makes the content, reason that it is refused for).
HOSTILE_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.jpg": (lambda: b"", "empty"),
    "zeros.jpg": (lambda: bytes(4096), "format"),
    "text.png": (lambda: b"<html>404 not found</html>", "format"),
    "script.svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format"),
    "vector.eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "format"),
    "icon.ico": (lambda: encode(make_picture(901), "ICO"), "format"),
    "portable.ppm": (lambda: encode(make_picture(902), "PPM"), "format"),
    "header only.jpg": (lambda: _jpeg(903)[:100], "damaged"),
    "truncated.jpg": (lambda: _jpeg(904)[:-200], "damaged"),
    "cut and closed.jpg": (_closed_early, "damaged"),
    "truncated.png": (lambda: encode(make_picture(905))[:-300], "damaged"),
    "truncated.webp": (lambda: encode(make_picture(906), "WEBP", lossless=True)[:-200], "damaged"),
    "truncated.bmp": (lambda: encode(make_picture(907), "BMP")[:-300], "damaged"),
    "truncated.tif": (lambda: encode(make_picture(908), "TIFF")[:-300], "damaged"),
    "crc.png": (_broken_crc, "format"),
    "no pixels.png": (lambda: make_png(64, 64), "damaged"),
    "bomb.png": (lambda: make_png(60_000, 60_000), "pixels"),
    "gigapixel.png": (lambda: make_png(2_000_000_000, 2_000_000_000), "pixels"),
    "pointer of git lfs.jpg": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "format"),
    "png called.jpg": (lambda: encode(make_picture(909)), "extension"),
    "jpeg called.png": (lambda: _jpeg(910), "extension"),
    "animated.gif": (lambda: encode_animation("GIF"), "animation"),
    "animated.png": (lambda: encode_animation("PNG"), "animation"),
    "animated.webp": (lambda: encode_animation("WEBP"), "animation"),
    "pages.tif": (lambda: encode_animation("TIFF"), "animation"),
    "real numbers.tif": (lambda: _tiff(911, np.float32), "colour mode"),
    "integers.tif": (lambda: _tiff(913, np.int32), "colour mode"),
    "lab.tif": (_lab_tiff, "colour mode"),
    "text bomb.png": (_text_bomb, "damaged"),
    "huge file.bmp": (lambda: encode(make_picture(916, 620), "BMP"), "file size"),
    "200 megapixels.png": (lambda: make_huge_png(14_143), "pixels"),
}


def add_hostile_files(root: Path, outside: Path) -> dict[str, str]:
    """Add hostile files, links, devices and duplicates to a folder of `make_class_folder`.

    Args:
        root: Folder with the classes cat and dog.
        outside: File to create outside `root`, for links that lead there.

    Returns:
        Path -> reason, for every path that must be refused.
    """
    cats = root / "cat"
    expected = {}
    for name, (content, reason) in HOSTILE_FILES.items():
        (cats / name).write_bytes(content())
        expected[f"cat/{name}"] = reason
    outside.write_bytes(_jpeg(920))
    (cats / "link out.jpg").symlink_to(outside)
    (cats / "link up.jpg").symlink_to("../../outside.jpg")
    (cats / "link nowhere.jpg").symlink_to("nowhere.jpg")
    (cats / "link round.jpg").symlink_to("link round.jpg")
    (cats / "link folder").symlink_to(outside.parent)
    expected |= {
        f"cat/link {name}": "link"
        for name in ("out.jpg", "up.jpg", "nowhere.jpg", "round.jpg", "folder")
    }
    os.mkfifo(cats / "pipe.jpg")
    listener = socket.socket(socket.AF_UNIX)
    working_directory = Path.cwd()
    os.chdir(cats)  # The absolute path may be too long for a socket.
    listener.bind("socket.jpg")
    os.chdir(working_directory)
    listener.close()
    expected |= {"cat/pipe.jpg": "not a file", "cat/socket.jpg": "not a file"}
    Path(os.fsdecode(os.fsencode(cats) + b"/bytes \xff\xfe.jpg")).write_bytes(_jpeg(921))
    (cats / "line\nbreak.jpg").write_bytes(_jpeg(922))
    expected |= {"cat/bytes \\udcff\\udcfe.jpg": "name", "cat/line\\nbreak.jpg": "name"}
    (root / "stray.jpg").write_bytes(_jpeg(923))
    expected["stray.jpg"] = "no class"
    # The same picture as a cat and as a dog, in other formats: either label may be wrong.
    (cats / "both.png").write_bytes(encode(make_picture(924)))
    (root / "dog" / "both.bmp").write_bytes(encode(make_picture(924), "BMP"))
    expected |= {"cat/both.png": "two labels", "dog/both.bmp": "two labels"}
    (cats / "again.png").write_bytes(encode(make_picture(925)))
    (cats / "again too.bmp").write_bytes(encode(make_picture(925), "BMP"))
    expected["cat/again.png"] = "duplicate"
    # Files of operating systems and editors, and files that are not images by name, are ignored.
    (cats / ".DS_Store").write_bytes(b"x")
    (cats / "Thumbs.db").write_bytes(b"x")
    (cats / "notes.txt").write_bytes(b"remember the milk")
    (root / ".ipynb_checkpoints").mkdir()
    # Unusual names and links within the folder are accepted.
    (cats / "link within.jpg").symlink_to("ünïcode 猫 🐈 'quoted' <b>.JPEG")
    expected["cat/ünïcode 猫 🐈 'quoted' <b>.JPEG"] = "duplicate"  # of the link, which comes first
    (cats / "ünïcode 猫 🐈 'quoted' <b>.JPEG").write_bytes(_jpeg(926))
    return expected
