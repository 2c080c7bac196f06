"""Files that are images by name or by content, and everything else, which is ignored and listed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from components.data.sources.base import IgnoredKind
from components.data.sources.files.iso_brands import IMAGE_BRANDS
from components.printable import escape_unprintable


def split_words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


# Also formats that are not decoded: such a file is refused, because it may be an image that the
# user expects to be used.
IMAGE_EXTENSIONS = split_words(
    "jpg jpeg jpe jfif jfi jif mpo png apng webp bmp dib tif tiff gif avif avifs heic heics heif "
    "heifs hif jxl jp2 j2k jpf jpx j2c ico cur svg svgz eps ppm pgm pbm pnm pfm tga psd psb xcf "
    "pcx sgi ras exr dcm dicom dng cr2 cr3 nef nrw arw sr2 orf rw2 rwl raf pef srw raw 3fr fff iiq "
    "dcr kdc mos mef erf gpr"
)
# Names that are never images. A file with any other extension, or without one, is looked into.
OTHER_EXTENSIONS = split_words(
    "txt md rst csv tsv json jsonl ndjson geojson xml yaml yml toml ini cfg conf log html htm css "
    "js ts py pyc pyo pyi ipynb sh bat ps1 m mlx c cc cpp h hpp java r rmd lock names data "
    "npy npz mat h5 hdf5 pkl pickle pt pth ckpt onnx safetensors pb tflite parquet arrow feather "
    "tfevents tfrecord tfrecords lmdb mdb db sqlite zip tar gz tgz bz2 xz zst 7z rar mp4 mov avi "
    "mkv webm m4v mpg mpeg mp3 wav aac m4a aae xmp thm pdf doc docx xls xlsx ods ppt pptx rtf tex "
    "bib url lnk md5 sha1 sha256 sha512 dvc"
)
_NAMED_EXTENSIONS = IMAGE_EXTENSIONS | OTHER_EXTENSIONS
# Created by operating systems, storage servers, archivers, Python and Node. "Icon\r": macOS.
_SYSTEM_NAMES = frozenset(
    [
        *("Thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini", "Icon\r", "__MACOSX"),
        *("@eaDir", "@Recycle", "@Recently-Snapshot", "#recycle", "$RECYCLE.BIN", "lost+found"),
        *("System Volume Information", "__pycache__", "node_modules", "site-packages"),
    ]
)
HEAD_BYTES = 16
"""Number of bytes by which a format is recognised."""
_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"BM",
)  # fmt: skip
_MAX_EXAMPLES = 12
_MAX_KINDS_SHOWN = 5
_MAX_EXAMPLES_SHOWN = 2


def is_skipped(name: str) -> bool:
    """Return True if a file or folder of this name is never looked into: hidden, or a system's."""
    return name.startswith(".") or name in _SYSTEM_NAMES


def get_extension(path: str) -> str:
    """Return the extension in lower case without the dot, or an empty string."""
    stem, _, extension = path.rpartition("/")[2].rpartition(".")
    return extension.lower() if stem else ""


def has_image_name(path: str) -> bool:
    """Return True if the extension is that of an image format, decoded or not."""
    return get_extension(path) in IMAGE_EXTENSIONS


def is_undecided(path: str) -> bool:
    """Return True if the name does not tell whether a file is an image: its content must."""
    return get_extension(path) not in _NAMED_EXTENSIONS


def is_image_head(head: bytes) -> bool:
    """Return True if a file that begins with `head` may be an image of a format that is decoded."""
    return (
        head.startswith(_SIGNATURES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in IMAGE_BRANDS)
    )


def count_ignored(paths: Iterable[str]) -> list[IgnoredKind]:
    """Count ignored files by kind, the most frequent first; a path of a folder ends with `/`.

    Kinds are extensions, hidden files, files without an extension, and folders.
    """
    counts: dict[str, int] = defaultdict(int)
    examples: dict[str, list[str]] = defaultdict(list)
    for path in sorted(paths):
        kind = _name_kind(path)
        counts[kind] += 1
        if len(examples[kind]) < _MAX_EXAMPLES:
            examples[kind].append(escape_unprintable(path))
    kinds = [IgnoredKind(kind, n, tuple(examples[kind])) for kind, n in counts.items()]
    return sorted(kinds, key=lambda kind: (-kind.number, kind.name))


def _name_kind(path: str) -> str:
    name = path.rstrip("/").rpartition("/")[2]
    is_folder = path.endswith("/")
    if is_skipped(name):
        return "hidden or system folder" if is_folder else "hidden or system file"
    if is_folder:
        return "folder without images"
    extension = get_extension(path)
    return f".{extension}" if extension else "without extension"


def describe_ignored(kinds: Sequence[IgnoredKind]) -> str:
    """Return one line of the most frequent kinds with examples, or an empty string."""
    parts = []
    for kind in kinds[:_MAX_KINDS_SHOWN]:
        shown = kind.examples[:_MAX_EXAMPLES_SHOWN]
        more = ", ..." if kind.number > len(shown) else ""
        parts.append(f"{kind.number:,} {kind.name} ({', '.join(shown)}{more})")
    if len(kinds) > _MAX_KINDS_SHOWN:
        rest = sum(kind.number for kind in kinds[_MAX_KINDS_SHOWN:])
        parts.append(f"{rest:,} of {len(kinds) - _MAX_KINDS_SHOWN} other kinds")
    return ", ".join(parts)
