"""From files to probabilities: the pixels, the batches, and the files that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import torch
from PIL import ExifTags, Image

from components.data.preparation.survey import local_imap
from components.data.sources.base import Refusal
from components.data.sources.unlabelled import open_unlabelled
from components.errors import UserError
from components.evaluation.metrics import compute_probabilities
from components.evaluation.predict import predict_split
from components.models.architectures import build
from components.params import Limits
from components.records.splits import Channels, Preparation
from components.records.training import Network
from components.serving.predictor import Predictor
from tests.unit.data.hostile import HOSTILE_FILES, encode, make_picture

CROP = Preparation(rules=1, resize="crop", background=255)


def make_predictor(
    preparation: Preparation | None = CROP,
    shape: tuple[int, int, int] = (16, 16, 3),
    batch_size: int = 4,
) -> Predictor:
    network = Network(
        architecture="cnn",
        width=8,
        shape=shape,
        classes=["a", "b", "c"],
        channels=Channels(mean=[99.0] * shape[2], std=[50.0] * shape[2]),
        preparation=preparation,
    )
    torch.manual_seed(0)
    module = build(network).eval()
    return Predictor.create("task version 1", module, network, batch_size)


def predict(
    predictor: Predictor, folder: Path, limits: Limits | None = None
) -> dict[str, np.ndarray | Refusal]:
    limits = limits or Limits()
    source = open_unlabelled(str(folder), limits, folder)
    batches = list(predictor.predict_source(source, limits, local_imap))
    results = [image for batch in batches for image in batch]
    assert [image.id for image in results] == [entry.id for entry in source.entries]
    for batch in batches:
        assert sum(isinstance(image.result, np.ndarray) for image in batch) <= predictor.batch_size
    return {image.id: image.result for image in results}


def test_probabilities_are_those_of_evaluate_to_the_bit(tmp_path: Path) -> None:
    pictures = [make_picture(n, 16) for n in range(11)]
    for number, picture in enumerate(pictures):
        (tmp_path / f"{number:02d}.png").write_bytes(encode(picture))
    (tmp_path / "05x.png").write_bytes(b"no image")  # moves no image into another batch
    predictor = make_predictor()
    logits, _ = predict_split(predictor.module, np.stack(pictures), 4)
    results = predict(predictor, tmp_path)
    refusal = results.pop("05x.png")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "format"
    np.testing.assert_array_equal(list(results.values()), compute_probabilities(logits))


def test_orientation_alpha_and_format_do_not_change_the_picture(tmp_path: Path) -> None:
    pillow_heif.register_heif_opener()
    picture = make_picture(3, 64)
    (tmp_path / "upright.png").write_bytes(encode(picture))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = Image.fromarray(picture).transpose(Image.Transpose.ROTATE_90)
    for name, form in {"turned.png": "PNG", "turned.jpg": "JPEG", "turned.heic": "HEIF"}.items():
        options = {} if form == "PNG" else {"quality": 95}
        (tmp_path / name).write_bytes(encode(turned, form, exif=exif.tobytes(), **options))
    opaque = np.dstack([picture, np.full((64, 64), 255, np.uint8)])
    (tmp_path / "opaque.png").write_bytes(encode(opaque))
    # One image per batch, so that equal pixels give equal bits.
    results = predict(make_predictor(batch_size=1), tmp_path)
    expected = results["upright.png"]
    for name in ("turned.png", "opaque.png"):
        np.testing.assert_array_equal(results[name], expected)
    for name in ("turned.jpg", "turned.heic"):
        np.testing.assert_allclose(results[name], expected, atol=0.02)


def test_hostile_files_get_one_reason_each_and_the_others_are_predicted(tmp_path: Path) -> None:
    expected = {}
    for name, (content, reason) in HOSTILE_FILES.items():
        (tmp_path / name).write_bytes(content())
        expected[name] = reason
    (tmp_path / "good.png").write_bytes(encode(make_picture(5)))
    results = predict(make_predictor(), tmp_path, Limits(max_file_mb=1))
    good = results.pop("good.png")
    assert isinstance(good, np.ndarray)
    assert good.sum() == pytest.approx(1)
    assert {
        name: result.reason for name, result in results.items() if isinstance(result, Refusal)
    } == expected


def test_background_of_the_version_is_used(tmp_path: Path) -> None:
    clear = np.dstack([make_picture(1, 16), np.zeros((16, 16), np.uint8)])
    (tmp_path / "clear.png").write_bytes(encode(clear))
    for background in (0, 200):
        predictor = make_predictor(Preparation(rules=1, resize="crop", background=background))
        grey = np.full((1, 16, 16, 3), background, np.uint8)
        result = predict(predictor, tmp_path)["clear.png"]
        np.testing.assert_array_equal(result, predictor.predict(grey)[0])


def test_pictures_of_other_sizes_are_refused_if_training_resized_none(tmp_path: Path) -> None:
    (tmp_path / "fits.png").write_bytes(encode(make_picture(1, 16)))
    (tmp_path / "large.png").write_bytes(encode(make_picture(1, 20)))
    results = predict(
        make_predictor(Preparation(rules=1, resize=None, background=255), (16, 16, 1)), tmp_path
    )
    assert isinstance(results["fits.png"], np.ndarray), "colours become grey, as for `channels: 1`"
    refusal = results["large.png"]
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "size"
    assert refusal.detail.startswith("20 x 20 pixels (height x width); the model takes 16 x 16")


@pytest.mark.parametrize(
    ("preparation", "message"),
    [
        (None, "trained by an earlier Kiln .* run `dvc repro`"),
        (CROP.model_copy(update={"rules": 2}), "prepared by rules 2, and this Kiln has rules 1"),
    ],
)
def test_version_with_an_unknown_preparation_is_refused(
    preparation: Preparation | None, message: str
) -> None:
    with pytest.raises(UserError, match=f"task version 1 .*{message}"):
        make_predictor(preparation)
