"""A class folder of good images among every kind of file that should not be trained on, and why each is not."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 24


def picture(seed: int, size: int = SIZE) -> np.ndarray:
    """A picture unlike those of other seeds, `uint8 (size, size, 3)`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def encoded(image: Image.Image | np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    data = BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(data, form, **options)
    return data.getvalue()


def good_folder(root: Path, per_class: int = 40, classes: tuple[str, ...] = ("cat", "dog"), size: int = SIZE) -> None:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for n in range(per_class):
            (root / name / f"{n:03d}.jpg").write_bytes(encoded(picture(100_000 * number + n, size), "JPEG", quality=92))


def frames(form: str, **options: Any) -> bytes:
    many = [Image.fromarray(picture(n)) for n in range(900, 903)]
    return encoded(many[0], form, save_all=True, append_images=many[1:], **options)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _with_chunk(data: bytes, chunk: bytes) -> bytes:
    return data[:33] + chunk + data[33:]  # after the header


def png(width: int, height: int, data: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    """A PNG whose header announces what one likes."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", zlib.compress(data, 9)) + _chunk(b"IEND", b"")


def huge_png(side: int) -> bytes:
    """A whole, valid grey PNG of `side` x `side` pixels in a few hundred kilobytes."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _jpeg(seed: int) -> bytes:
    return encoded(picture(seed), "JPEG")


def _broken_crc() -> bytes:
    data = bytearray(encoded(picture(912)))
    data[20] ^= 0xFF
    return bytes(data)


# name in the class folder -> (content, reason). Every one must be refused for that reason.
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.jpg": (lambda: b"", "empty"),
    "zeros.jpg": (lambda: bytes(4096), "format"),
    "text.png": (lambda: b"<html>404 not found</html>", "format"),
    "script.svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format"),
    "vector.eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "format"),
    "notes.txt": (lambda: b"remember the milk", "format"),
    "icon.ico": (lambda: encoded(picture(901), "ICO"), "format"),
    "portable.ppm": (lambda: encoded(picture(902), "PPM"), "format"),
    "header only.jpg": (lambda: _jpeg(903)[:100], "damaged"),
    "truncated.jpg": (lambda: _jpeg(904)[:-200], "damaged"),
    "cut and closed.jpg": (lambda: encoded(picture(917, 200), "JPEG")[:-400] + b"\xff\xd9", "damaged"),
    "truncated.png": (lambda: encoded(picture(905))[:-300], "damaged"),
    "truncated.webp": (lambda: encoded(picture(906), "WEBP", lossless=True)[:-200], "damaged"),
    "truncated.bmp": (lambda: encoded(picture(907), "BMP")[:-300], "damaged"),
    "truncated.tif": (lambda: encoded(picture(908), "TIFF")[:-300], "damaged"),
    "crc.png": (_broken_crc, "format"),
    "no pixels.png": (lambda: png(64, 64), "damaged"),
    "bomb.png": (lambda: png(60_000, 60_000), "pixels"),
    "gigapixel.png": (lambda: png(2_000_000_000, 2_000_000_000), "pixels"),
    "png called.jpg": (lambda: encoded(picture(909)), "extension"),
    "jpeg called.png": (lambda: _jpeg(910), "extension"),
    "animated.gif": (lambda: frames("GIF"), "animation"),
    "animated.png": (lambda: frames("PNG"), "animation"),
    "animated.webp": (lambda: frames("WEBP"), "animation"),
    "pages.tif": (lambda: frames("TIFF"), "animation"),
    "real numbers.tif": (lambda: encoded(picture(911)[..., 0].astype(np.float32), "TIFF"), "colour mode"),
    "integers.tif": (lambda: encoded(picture(913)[..., 0].astype(np.int32), "TIFF"), "colour mode"),
    "lab.tif": (lambda: encoded(Image.fromarray(picture(914), mode="LAB"), "TIFF"), "colour mode"),
    "text bomb.png": (
        lambda: _with_chunk(encoded(picture(915)), _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20)))),
        "damaged",
    ),
    "huge file.bmp": (lambda: encoded(picture(916, 620), "BMP"), "file size"),
    "200 megapixels.png": (lambda: huge_png(14_143), "pixels"),
}  # fmt: skip


def fill(root: Path, outside: Path) -> dict[str, str]:
    """Adds the table's files and what is no file at all to the folder of cats; path -> reason that it must be refused for."""
    cats = root / "cat"
    expected = {}
    for name, (content, reason) in FILES.items():
        (cats / name).write_bytes(content())
        expected[f"cat/{name}"] = reason
    outside.write_bytes(_jpeg(920))
    (cats / "link out.jpg").symlink_to(outside)
    (cats / "link up.jpg").symlink_to("../../outside.jpg")
    (cats / "link nowhere.jpg").symlink_to("nowhere.jpg")
    (cats / "link round.jpg").symlink_to("link round.jpg")
    (cats / "link folder").symlink_to(outside.parent)
    expected |= {f"cat/link {name}": "link" for name in ("out.jpg", "up.jpg", "nowhere.jpg", "round.jpg", "folder")}
    os.mkfifo(cats / "pipe.jpg")
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(cats)  # a socket's path must be short
    listener.bind("socket.jpg")
    os.chdir(here)
    listener.close()
    expected |= {"cat/pipe.jpg": "not a file", "cat/socket.jpg": "not a file"}
    Path(os.fsdecode(os.fsencode(cats) + b"/bytes \xff\xfe.jpg")).write_bytes(_jpeg(921))
    (cats / "line\nbreak.jpg").write_bytes(_jpeg(922))
    expected |= {"cat/bytes \\udcff\\udcfe.jpg": "name", "cat/line\\nbreak.jpg": "name"}
    (root / "stray.jpg").write_bytes(_jpeg(923))
    expected["stray.jpg"] = "no class"
    # The same picture as a cat and as a dog, in other formats: nobody knows which is right.
    (cats / "both.png").write_bytes(encoded(picture(924)))
    (root / "dog" / "both.bmp").write_bytes(encoded(picture(924), "BMP"))
    expected |= {"cat/both.png": "two labels", "dog/both.bmp": "two labels"}
    (cats / "again.png").write_bytes(encoded(picture(925)))
    (cats / "again too.bmp").write_bytes(encoded(picture(925), "BMP"))
    expected["cat/again.png"] = "duplicate"
    # Left behind by systems and editors: passed over without a word.
    (cats / ".DS_Store").write_bytes(b"x")
    (cats / "Thumbs.db").write_bytes(b"x")
    (root / ".ipynb_checkpoints").mkdir()
    # Odd names and a link within the folder are no reason.
    (cats / "link within.jpg").symlink_to("ünïcode 猫 🐈 'quoted' <b>.JPEG")
    expected["cat/ünïcode 猫 🐈 'quoted' <b>.JPEG"] = "duplicate"  # of that link, which comes first
    (cats / "ünïcode 猫 🐈 'quoted' <b>.JPEG").write_bytes(_jpeg(926))
    return expected
