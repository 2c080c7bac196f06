"""The model on its own: validation, memory layout and choice of precision."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu_run.right.differences import MAX_NAMES
from benchmarks.gpu_run.right.setup import Setup, allow_tf32
from benchmarks.gpu_run.right.trials import CPU
from components.data.format.images import Images
from components.data.loading.image_stores import InMemoryImages
from components.evaluation.predict import list_batch_starts, predict_batches
from components.models.classifier import Classifier
from components.training.precision import probe
from components.training.validation import validate

LOSS_TOLERANCE = 1e-4
"""Largest relative difference of the validation loss to that of the CPU."""


def check_validation(setup: Setup) -> None:
    """Compare validation and logits of trained networks with those on the CPU."""
    for name in setup.names("cnn", "resnet18"):
        with setup.results.attempt(f"validation {name}"):
            trial = setup.trial(name, steps=40)
            outcome = trial.train(setup.device, "bf16")
            rows = 40 if setup.smoke else 2000 if name == "cnn" else 1000
            images = trial.make_images(rows, seed=2)
            models = {device: trial.build_model(device) for device in (setup.device, CPU)}
            for model in models.values():
                model.load_state_dict(outcome.weights)
                model.eval()
            _compare_validation(setup, name, models, images)
            # One thread, as in `evaluate`, needs seconds for some hundred images of ResNet-18.
            few = images.slice(0, rows // 5 if name == "resnet18" else rows)
            _compare_logits(setup, name, models, few)


def _compare_validation(
    setup: Setup, name: str, models: dict[torch.device, Classifier], images: Images
) -> None:
    """Compare `validate`. With TF32, the default of cuDNN, the difference is not judged."""
    cpu_loss, cpu_top1 = validate(models[CPU], InMemoryImages(images, CPU), CPU)
    for tf32 in (False, True):
        store = InMemoryImages(images, setup.device)
        with allow_tf32(tf32):
            loss, top1 = validate(models[setup.device], store, setup.device)
        difference = abs(loss - cpu_loss) / cpu_loss
        wrong = round(abs(top1 - cpu_top1) * len(images))
        values: dict[str, Any] = {}
        if not tf32:
            values = {
                "tolerance": LOSS_TOLERANCE,
                "ok": difference <= LOSS_TOLERANCE and wrong <= 1,
            }
        setup.results.add(
            "validation",
            network=name,
            tf32=tf32,
            images=len(images),
            cpu_loss=cpu_loss,
            cpu_top1=cpu_top1,
            relative_difference=difference,
            top1_difference_images=wrong,
            **values,
        )


def _compare_logits(
    setup: Setup, name: str, models: dict[torch.device, Classifier], images: Images
) -> None:
    """Compare logits with those that the stage `evaluate` computes on the CPU."""
    threads = torch.get_num_threads()
    starts = list_batch_starts(len(images), 100)
    batches, _ = predict_batches(models[CPU], images.pixels, 100, starts)
    torch.set_num_threads(threads)
    expected = torch.from_numpy(np.concatenate(batches))
    for tf32 in (False, True):
        with torch.inference_mode(), allow_tf32(tf32):
            logits = models[setup.device](torch.from_numpy(images.pixels).to(setup.device)).cpu()
        setup.results.add(
            "logits",
            network=name,
            tf32=tf32,
            images=len(images),
            max_abs_difference=(logits - expected).abs().max(),
            max_abs_logit=expected.abs().max(),
            top1_agreement=(logits.argmax(1) == expected.argmax(1)).double().mean(),
        )


def check_memory_format(setup: Setup) -> None:
    """Look at weights, gradients and activations of all convolutions in training steps."""
    for name in setup.names("cnn", "resnet18"):
        with setup.results.attempt(f"channels-last {name}"):
            stepper = setup.trial(name, epochs=1).make_stepper(setup.device, "bf16")
            modules = stepper.state.model.named_modules()
            convolutions = {key: m for key, m in modules if isinstance(m, nn.Conv2d)}
            seen, wrong = _watch_layouts(convolutions)
            for _ in stepper.train_epoch():
                pass
            for key, module in convolutions.items():
                gradient = module.weight.grad
                if not _is_channels_last(module.weight):
                    wrong.add(f"weight of {key}")
                if gradient is not None and not _is_channels_last(gradient):
                    wrong.add(f"gradient of {key}")
            setup.results.add(
                "channels-last",
                network=name,
                convolutions=len(convolutions),
                seen=len(seen),
                wrong=sorted(wrong)[:MAX_NAMES],
                ok=len(seen) == len(convolutions) and not wrong,
            )


def _watch_layouts(convolutions: dict[str, nn.Conv2d]) -> tuple[set[str], set[str]]:
    """Return two sets that fill up: convolutions that ran, and activations not channels-last."""
    seen: set[str] = set()
    wrong: set[str] = set()

    def make_hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen.add(name)
            if not _is_channels_last(inputs[0]):
                wrong.add(f"input of {name}")
            if not _is_channels_last(output):
                wrong.add(f"output of {name}")

        return hook

    for name, module in convolutions.items():
        module.register_forward_hook(make_hook(name))
    return seen, wrong


def _is_channels_last(values: Tensor) -> bool:
    return values.is_contiguous(memory_format=torch.channels_last)


def check_probe(setup: Setup) -> None:
    """Record the choice of precision: bf16 for ResNet-18 on a GPU."""
    for name in setup.names("cnn", "resnet18"):
        with setup.results.attempt(f"probe {name}"):
            trial = setup.trial(name, batch=256, steps=2)
            store = trial.make_config(setup.device).train
            rows = torch.arange(trial.batch)
            start = time.perf_counter()
            result = probe(
                trial.build_model(setup.device),
                store.fetch(rows),
                store.labels[rows].to(setup.device),
            )
            values: dict[str, Any] = {"seconds": time.perf_counter() - start}
            if name == "resnet18" and setup.device.type == "cuda":
                values["ok"] = result.precision == "bf16"
            setup.results.add("probe", network=name, batch=trial.batch, **vars(result), **values)
