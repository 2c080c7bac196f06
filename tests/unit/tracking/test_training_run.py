"""The run of a training: its data, its metrics, its end, and continuing it."""

from __future__ import annotations

from mlflow import MlflowClient

from components.records.training import Epoch
from components.tracking.runs import FINGERPRINT_TAG, data_tags, find_run, flatten
from components.tracking.training_run import open_training_run


def make_epoch(number: int) -> Epoch:
    return Epoch(
        epoch=number,
        step=5 * number,
        learning_rate=0.1,
        train_loss=1.0,
        train_top1=0.5,
        val_loss=1.0,
        val_top1=0.5,
    )


def test_datasets_are_logged_with_source_digest_and_context(client: MlflowClient) -> None:
    datasets = {
        "training": ("data/augmented/train", "ab" * 32),
        "validation": ("s3://bucket/val", "cd" * 32),
    }
    with open_training_run(client, "task", "cnn", {}, {}, datasets) as run:
        pass
    inputs = client.get_run(run.run_id).inputs.dataset_inputs
    logged = {entry.tags[0].value: entry.dataset.to_dictionary() for entry in inputs}
    assert [entry.tags[0].key for entry in inputs] == ["mlflow.data.context"] * 2
    unused = {"schema": None, "profile": None}
    assert logged["training"] == unused | {
        "name": "data/augmented/train",
        "digest": "ab" * 16,
        "source_type": "local",
        "source": '{"uri": "data/augmented/train"}',
    }
    assert logged["validation"] == unused | {
        "name": "s3://bucket/val",
        "digest": "cd" * 16,
        "source_type": "s3",
        "source": '{"uri": "s3://bucket/val"}',
    }


def test_unfinished_run_is_continued_and_its_epochs_are_not_logged_again(
    client: MlflowClient,
) -> None:
    tags = {FINGERPRINT_TAG: "a"}
    with open_training_run(client, "task", "cnn", {}, tags, {}) as run:
        run.log_epoch(make_epoch(1))
    client.update_run(run.run_id, status="KILLED")
    with open_training_run(client, "task", "cnn", {}, tags, {}, resume=run.run_id) as again:
        again.log_epoch(make_epoch(1))
        again.log_epoch(make_epoch(2))
    assert again.run_id == run.run_id
    assert [m.step for m in client.get_metric_history(run.run_id, "val_top1")] == [1, 2]
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_finished_run_and_run_with_another_fingerprint_are_not_continued(
    client: MlflowClient,
) -> None:
    with open_training_run(client, "task", "cnn", {}, {FINGERPRINT_TAG: "a"}, {}) as run:
        pass
    for status, fingerprint in (("FINISHED", "a"), ("KILLED", "b")):
        client.update_run(run.run_id, status=status)
        tags = {FINGERPRINT_TAG: fingerprint}
        with open_training_run(client, "task", "cnn", {}, tags, {}, resume=run.run_id) as other:
            pass
        assert other.run_id != run.run_id


def test_finished_run_is_found_by_fingerprint(client: MlflowClient) -> None:
    with open_training_run(client, "task", "cnn", {}, {FINGERPRINT_TAG: "unique"}, {}) as run:
        experiment_id = client.get_run(run.run_id).info.experiment_id
        assert find_run(client, experiment_id, "unique") is None
    assert find_run(client, experiment_id, "unique") == run.run_id
    assert find_run(client, experiment_id, "absent") is None


def test_nested_parameters_become_dotted_keys() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [2]}) == {"a.b": 1, "d": [2]}
    assert data_tags({"raw": "ab"}) == {"data.raw.sha256": "ab"}
