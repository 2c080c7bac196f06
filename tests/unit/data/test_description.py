"""The description of how pictures become pixels: its content, and the pixels that it stands for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from components.data.preparation import decoder
from components.data.preparation.description import PIXEL_RULES, describe_preparation, make_rules
from components.data.preparation.formats import load_codecs
from components.params import IdxSource, Limits, Preprocess
from components.records.splits import Channels, Manifest, Preparation
from components.records.training import Network
from tests.unit.data.hostile import encode, make_class_folder, make_picture
from tests.unit.data.prepared import Prepare

load_codecs()


def make_files() -> list[bytes]:
    """Return pictures that need every rule: orientation, transparency, palette, 16 bits, JPEG."""
    picture = make_picture(1, 60)[:41]
    clear = Image.fromarray(np.dstack([picture, picture[..., 0]]))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    wide = picture[..., 0].astype(np.uint16) * 257
    return [
        encode(clear),
        encode(picture, "PNG", exif=exif.tobytes()),
        encode(Image.fromarray(picture).quantize(9)),
        encode(wide),
        encode(picture, "JPEG", quality=90),
        encode(picture[..., 0]),
    ]


@pytest.mark.parametrize(
    ("preparation", "size", "channels", "digest"),
    [
        (Preparation(rules=1, resize="crop", background=7), (16, 24), 3, "cc55bdcb97c4ebf9"),
        (Preparation(rules=1, resize="pad", background=7), (16, 24), 1, "032ee9afd78e9aad"),
        (Preparation(rules=1, resize="stretch", background=7), (24, 16), 3, "270af03bb7aa9bb7"),
        (Preparation(rules=1, resize=None, background=7), None, None, "57f4204b1ee96fc1"),
    ],
    ids=lambda value: str(getattr(value, "resize", "")),
)
def test_pixels_are_those_of_the_present_rules(
    preparation: Preparation, size: tuple[int, int] | None, channels: int | None, digest: str
) -> None:
    """If this fails, files give other pixels than in training: raise `PIXEL_RULES`.

    Versions of the old rules are then refused by predictions, which would be wrong.
    """
    rules = make_rules(preparation, size, channels, Limits())
    pixels = hashlib.sha256()
    for file in make_files():
        pixels.update(decoder.decode(file, rules).pixels.tobytes())
    assert (PIXEL_RULES, pixels.hexdigest()[:16]) == (1, digest)


@pytest.mark.parametrize(
    ("settings", "resize"),
    [
        ({}, None),
        ({"resize": "pad"}, None),
        ({"image_size": 32}, "crop"),
        ({"image_size": (32, 8), "resize": "stretch"}, "stretch"),
    ],
)
def test_resize_is_recorded_if_images_are_resized(settings: Any, resize: str | None) -> None:
    preprocess = Preprocess(source=IdxSource(kind="idx", path="raw"), background=9, **settings)
    expected = Preparation(rules=PIXEL_RULES, resize=resize, background=9)
    assert describe_preparation(preprocess) == expected


def test_training_split_has_the_description_and_the_others_have_none(
    prepare: Prepare, tmp_path: Path
) -> None:
    make_class_folder(tmp_path / "raw", per_class=12)
    out = prepare("raw", image_size=16, resize="pad", background=3)
    manifests = {
        split: json.loads((out / split / "manifest.json").read_text())
        for split in ("train", "val", "test")
    }
    assert manifests["train"]["preparation"] == {"rules": 1, "resize": "pad", "background": 3}
    assert "preparation" not in manifests["val"]
    assert "preparation" not in manifests["test"]


def test_records_of_earlier_kilns_keep_their_bytes() -> None:
    """A digest of a split names the data of a verdict; a version's files are made again."""
    split = Manifest(
        split="test",
        origin={"raw": "r"},
        shape=(8, 8, 1),
        rows=2,
        classes=["a", "b"],
        class_counts=[1, 1],
        shards=[],
    )
    digest = "c3c46b703f2d54480754bb21f64be63ce653a72588825f65b323ff31fa02f575"
    assert split.sha256 == digest
    network = Network(
        architecture="cnn",
        width=8,
        shape=(8, 8, 1),
        classes=["a", "b"],
        channels=Channels(mean=[1.0], std=[2.0]),
    )
    assert "preparation" not in network.model_dump_json()
    assert Network.model_validate_json(network.model_dump_json()).preparation is None
