"""Verdicts and predictions that were forged by the identity that writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient

from components.data.format.shards import read_manifest, read_split
from components.errors import UserError
from components.evaluation.predictions import decode_predictions, encode_predictions
from components.records.receipt import Receipt
from components.registry import model_versions
from pipelines import promote as command
from tests.integration.versions import (
    NAME,
    evaluate_honestly,
    evaluate_version,
    make_verdict,
    record_predictions,
    register_version,
    write_test_split,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def test_split(client: MlflowClient, tmp_path: Path) -> Path:
    """A test split of which the version of seed 0 classifies 95 % correctly."""
    folder = tmp_path / "test"
    write_test_split(client, register_version(client, 0), folder, wrong=100)
    return folder


@pytest.fixture
def parameters(home: Path) -> Iterator[dict[str, Any]]:
    """The content of params.yaml, which `save` writes and the end of the test restores."""
    path = home / "params.yaml"
    original = path.read_text()
    yield yaml.safe_load(original)
    path.write_text(original)


def promote(receipt: Receipt, test: Path, **options: Any) -> None:
    command.promote(receipt.version, "r", alias="forged", test=test, **options)


def forge(test: Path, truth: float) -> bytes:
    """Return predictions that are right for a share `truth` of the examples of a split."""
    images = read_split(test)[0]
    predicted = np.where(np.arange(len(images)) < truth * len(images), images.labels, 0)
    return encode_predictions(images.ids, images.labels, np.eye(3)[predicted])


def test_honest_evaluation_is_recomputed_and_promoted(
    client: MlflowClient, test_split: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    receipt = register_version(client, 0)
    evaluate_honestly(client, receipt, test_split)
    promote(receipt, test_split)
    assert "computed here from the weights" in capsys.readouterr().out
    assert model_versions.get_aliases(client, NAME)["forged"] == receipt.version
    client.delete_registered_model_alias(NAME, "forged")


@pytest.mark.parametrize("override", [None, "I insist"])
def test_random_weights_with_perfect_predictions_are_refused(
    client: MlflowClient, test_split: Path, override: str | None
) -> None:
    receipt = register_version(client, 77)
    record_predictions(
        client, receipt, forge(test_split, 1.0), split=read_manifest(test_split).sha256
    )
    with pytest.raises(UserError, match="its predictions are not those of its weights"):
        promote(receipt, test_split, override=override)
    assert "forged" not in model_versions.get_aliases(client, NAME)


def test_labels_that_are_not_those_of_the_split_are_refused(
    client: MlflowClient, test_split: Path
) -> None:
    receipt = register_version(client, 77)
    honest = decode_predictions(evaluate_honestly(client, receipt, test_split))
    easy = encode_predictions(honest.ids, honest.probability.argmax(axis=1), honest.probability)
    record_predictions(client, receipt, easy, split=read_manifest(test_split).sha256)
    with pytest.raises(UserError, match="other examples or labels than those of the test split"):
        promote(receipt, test_split)


def test_metrics_that_do_not_follow_from_the_predictions_are_refused(
    client: MlflowClient, tmp_path: Path
) -> None:
    receipt = register_version(client, 1)
    evaluate_version(client, receipt, 400)
    version = model_versions.get(client, NAME, receipt.version)
    forged = version.tags["kiln.verdict"].replace('"top1":0.2', '"top1":0.99')
    client.set_model_version_tag(NAME, str(receipt.version), "kiln.verdict", forged)
    with pytest.raises(UserError, match=r"gives top1 as 0.9900, its predictions give 0.2000"):
        promote(receipt, tmp_path)


def test_gates_of_the_promoters_parameters_hold_for_a_verdict_without_gates(
    client: MlflowClient, home: Path, test_split: Path, parameters: dict[str, Any]
) -> None:
    receipt = register_version(client, 0)
    evaluate_honestly(client, receipt, test_split)
    version = model_versions.get(client, NAME, receipt.version)
    verdict = make_verdict(receipt).model_validate_json(version.tags["kiln.verdict"])
    bare = verdict.model_copy(update={"gates": []}).model_dump_json()
    client.set_model_version_tag(NAME, str(receipt.version), "kiln.verdict", bare)
    parameters["evaluate"]["gates"] = {"min_top1": 0.96}
    (home / "params.yaml").write_text(yaml.safe_dump(parameters))
    with pytest.raises(UserError, match=r"min_top1 is 0.96, found 0.9500"):
        promote(receipt, test_split)


def test_site_can_require_recomputation(
    client: MlflowClient,
    home: Path,
    test_split: Path,
    tmp_path: Path,
    parameters: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    receipt = register_version(client, 0)
    evaluate_honestly(client, receipt, test_split)
    promote(receipt, tmp_path / "none", dry_run=True)
    assert "of the evaluating identity" in capsys.readouterr().out
    parameters["promote"]["recompute"] = "require"
    (home / "params.yaml").write_text(yaml.safe_dump(parameters))
    with pytest.raises(UserError, match=r"in .*none is nothing, and promote.recompute is require"):
        promote(receipt, tmp_path / "none", dry_run=True)
    promote(receipt, test_split, dry_run=True)


def test_rounding_of_another_processor_is_no_forgery(
    client: MlflowClient, test_split: Path
) -> None:
    receipt = register_version(client, 0)
    honest = decode_predictions(evaluate_honestly(client, receipt, test_split))
    noise = np.random.default_rng(0).uniform(-1e-5, 1e-5, honest.probability.shape)
    rounded = encode_predictions(
        honest.ids, honest.labels, np.clip(honest.probability + noise, 0, 1)
    )
    record_predictions(client, receipt, rounded, split=read_manifest(test_split).sha256)
    promote(receipt, test_split, dry_run=True)
