"""Checks that training on a GPU is right: against the CPU, and against itself.

Arguments: `OUT [--smoke]`. Each check appends records to `OUT/right.jsonl`. A record has `ok` where
there is something to decide, with the `tolerance` that applied. With `--smoke` the sizes are tiny.
Without a GPU the CPU takes its place, and checks that need CUDA are recorded as skipped.

The checks run in a process of their own. If it dies, hangs or loses the GPU, a new one goes on with
the next check.
"""

from __future__ import annotations

import argparse
import copy
import functools
import io
import itertools
import math
import multiprocessing
import re
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu_run.results import Results
from components.data.format.images import Images
from components.data.format.shards import write_split
from components.data.loading.image_stores import DiskImages, ImageStore, InMemoryImages
from components.errors import PeerLostError, UserError
from components.evaluation.predict import list_batch_starts, predict_batches
from components.models import weights
from components.models.architectures import build
from components.models.classifier import Classifier
from components.params import Recipe
from components.params.base import Stem
from components.records.splits import Channels
from components.records.training import Network
from components.training import collectives, loop
from components.training.callback import NullCallback
from components.training.config import LoopConfig
from components.training.cuda_graphs import GraphedFunction
from components.training.precision import autocast, probe
from components.training.process_settings import prepare_process
from components.training.state import TrainState
from components.training.stepper import Stepper
from components.training.validation import validate

CPU = torch.device("cpu")
NUM_CLASSES = 10
RECIPE: dict[str, Any] = {"learning_rate": 0.05, "warmup_epochs": 0.5}
MIXING: dict[str, Any] = {
    "ema_decay": 0.9,
    "clip_gradient_norm": 0.5,
    "augment": {"flip": 0.5, "crop_padding": 2, "erase": 6, "mixup": 0.2, "cutmix": 1.0},
}
MUON: dict[str, Any] = {"muon": {"learning_rate": 0.05}, "ema_decay": 0.9}
MUON_CLIPPED: dict[str, Any] = MUON | {"clip_gradient_norm": 0.5}

TOLERANCES = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 3e-2, "fp16": 3e-2}
"""Largest relative difference of a step's loss to fp32 on the CPU."""
LOSS_TOLERANCE = 1e-4
"""Largest relative difference of the validation loss to that of the CPU."""
FP16_SCALE = 1024.0
CHECK_TIMEOUT_S = 60
GROUP_TIMEOUT_S = 40
HUGE_BATCH = 8000
"""In fp32 the activations of ResNet-50 at 32 x 32 with its CIFAR stem take more than 200 GB, and
none of them has 2^31 elements, for which some kernels have no code."""

_MAX_NAMES = 5
_NOT_DETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")


@dataclass(frozen=True)
class Spec:
    """A network and its square images of `side` pixels."""

    architecture: str
    side: int
    channels: int
    width: int | None = None
    stem: Stem = "cifar"


SPECS = {
    "cnn": Spec("cnn", 28, 1, width=8),
    "resnet20": Spec("resnet20", 28, 1, width=8),
    "resnet18": Spec("resnet18", 32, 3),
    # Its stem has a max-pooling of overlapping windows.
    "resnet18-imagenet": Spec("resnet18", 64, 3, stem="imagenet"),
}


@functools.lru_cache(maxsize=16)
def make_images(rows: int, side: int, channels: int, seed: int) -> Images:
    """Return noisy stripes, whose direction depends on the class and whose phase is random."""
    random = np.random.default_rng(seed)
    labels = random.integers(NUM_CLASSES, size=rows)
    angle = (np.pi * labels / NUM_CLASSES)[:, None, None]
    y, x = np.mgrid[:side, :side]
    phase = random.uniform(0, 2 * np.pi, (rows, 1, 1))
    stripes = np.sin(1.2 * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    noise = random.normal(0, 60, (rows, side, side, channels))
    pixels = (128 + 40 * stripes[..., None] + noise).clip(0, 255).astype(np.uint8)
    return Images(pixels, labels.astype(np.int64), [f"{seed}/{n}" for n in range(rows)])


@dataclass(frozen=True)
class Trial:
    """A small training on any device. The last batch of each of its epochs is short.

    `steps` is the number of steps in an epoch and `recipe` has values that replace those of
    `RECIPE`. `val_rows` is the number of validation images.
    """

    spec: Spec
    batch: int
    steps: int
    epochs: int = 2
    micro_batches: int = 1
    val_rows: int = 100
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.steps * self.batch - self.batch // 4

    @property
    def network(self) -> Network:
        spec = self.spec
        return Network(
            architecture=spec.architecture,
            width=spec.width,
            shape=(spec.side, spec.side, spec.channels),
            classes=[str(n) for n in range(NUM_CLASSES)],
            channels=Channels(mean=[128.0] * spec.channels, std=[66.0] * spec.channels),
            stem=spec.stem,
        )

    def make_images(self, rows: int, seed: int = 0) -> Images:
        return make_images(rows, self.spec.side, self.spec.channels, seed)

    def make_config(
        self,
        device: torch.device,
        callback: NullCallback | None = None,
        store: ImageStore | None = None,
        *,
        cuda_graphs: bool = True,
    ) -> LoopConfig:
        """Return the inputs of the loop. Without `store` the images are in the device's memory."""
        spec = self.spec
        values = {"architecture": spec.architecture, "width": spec.width, "epochs": self.epochs}
        return LoopConfig(
            network=self.network,
            train=store or InMemoryImages(self.make_images(self.rows), device),
            val=InMemoryImages(self.make_images(self.val_rows, seed=1), device),
            recipe=Recipe.model_validate(RECIPE | self.recipe | values),
            global_batch=self.batch,
            micro_batches=self.micro_batches,
            seed=5,
            device=device,
            cuda_graphs=cuda_graphs,
            callback=callback or NullCallback(),
        )

    def train(
        self,
        device: torch.device,
        precision: str,
        *,
        callback: NullCallback | None = None,
        resume: dict[str, Any] | None = None,
        store: ImageStore | None = None,
        cuda_graphs: bool = True,
    ) -> loop.TrainingOutcome:
        config = self.make_config(device, callback, store, cuda_graphs=cuda_graphs)
        return loop.train(config, precision=precision, resume=resume)

    def make_stepper(self, device: torch.device, precision: str) -> Stepper:
        """Return a stepper as `components.training.loop.train` makes it."""
        config = self.make_config(device)
        model = self.build_model(device)
        return Stepper(config, TrainState(model, config.recipe, self.steps, precision))

    def build_model(self, device: torch.device) -> Classifier:
        prepare_process(device)
        torch.manual_seed(5)
        return build(self.network).to(device).to(memory_format=torch.channels_last)

    def digest(self, outcome: loop.TrainingOutcome) -> str:
        return weights.sha256(self.network, outcome.weights)


@dataclass(frozen=True)
class Setup:
    """The results, the device and the sizes of the checks, and the children beside them."""

    results: Results
    device: torch.device
    smoke: bool
    groups: dict[str, GroupCheck] = field(default_factory=dict)

    def trial(self, name: str, **values: Any) -> Trial:
        """Return a trial of `SPECS[name]`; in a smoke run with few small images."""
        spec = SPECS[name]
        sizes: dict[str, Any] = {"batch": 64, "steps": 6}
        if self.smoke:
            spec = replace(spec, side=spec.side // 4)
            values = values | {"batch": 8, "steps": 3, "val_rows": 20}
        return Trial(spec, **(sizes | values))

    def names(self, *names: str) -> list[str]:
        """Return the networks of a check: of a smoke run on the CPU only the first."""
        return list(names[:1] if self.smoke and self.device == CPU else names)

    def needs_cuda(self, name: str) -> bool:
        """Record that a check was skipped and return True if the device is no GPU."""
        if self.device.type != "cuda":
            self.results.add(name, skipped="needs CUDA")
        return self.device.type != "cuda"

    def add_equality(
        self,
        name: str,
        trial: Trial,
        outcomes: tuple[loop.TrainingOutcome, loop.TrainingOutcome],
        **values: Any,
    ) -> bool:
        """Record whether two trainings gave the same weights and history, to the bit."""
        first, second = outcomes
        same_weights = trial.digest(first) == trial.digest(second)
        same_history = first.history == second.history
        ok = same_weights and same_history
        if not ok:
            values |= describe_differences(first.weights, second.weights)
        self.results.add(
            name, **values, same_weights=same_weights, same_history=same_history, tolerance=0, ok=ok
        )
        return ok


class Recorder(NullCallback):
    """Keeps each checkpoint as a file of torch would, and requests a stop after some steps."""

    def __init__(self, *, every_step: bool = False, stop_after: float = math.inf) -> None:
        self.every_step = every_step
        self.stop_after = stop_after
        self.steps_begun = 0
        self.checkpoints: dict[int, dict[str, Any]] = {}

    def on_step_begin(self, step: int) -> None:  # noqa: ARG002
        self.steps_begun += 1

    def save_checkpoint(self, state: dict[str, Any], wait: bool) -> None:  # noqa: ARG002
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        self.checkpoints[state["step"]] = torch.load(buffer, weights_only=True)

    def checkpoint_due(self, step: int) -> bool:  # noqa: ARG002
        return self.every_step

    def stop_requested(self) -> bool:
        return self.steps_begun >= self.stop_after


def describe_differences(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Any]:
    """Return the largest difference of two state dicts, and the first names that differ."""
    names = [name for name in first if not torch.equal(first[name], second[name])]
    largest = [float((first[name].double() - second[name].double()).abs().max()) for name in names]
    return {"max_difference": max(largest, default=0.0), "differ": names[:_MAX_NAMES]}


def find_differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Return the paths in two nested states whose values differ."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return [] if torch.equal(first, second) else [path]
    if isinstance(first, dict) and isinstance(second, dict):
        keys = first.keys() | second.keys()
        parts = [
            find_differences(first.get(key), second.get(key), f"{path}.{key}")
            for key in sorted(keys, key=str)
        ]
        return list(itertools.chain.from_iterable(parts))
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        parts = [
            find_differences(a, b, f"{path}.{n}")
            for n, (a, b) in enumerate(zip(first, second, strict=True))
        ]
        return list(itertools.chain.from_iterable(parts))
    return [] if first == second else [path]


@contextmanager
def allow_tf32(allowed: bool) -> Iterator[None]:
    """Allow cuDNN's convolutions to round fp32 to TF32 within the block, or forbid it."""
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=False, allow_tf32=allowed
    ):
        yield


# Curves of the loss


def check_curves(setup: Setup) -> None:
    """Compare the loss of each step with that of fp32 on the CPU."""
    for name in setup.names("cnn", "resnet20", "resnet18"):
        # The CPU is slow, and ResNet-18 has fifty times the operations of the others.
        steps = 6 if name == "resnet18" else 24
        # A low rate, so that the training does not amplify rounding.
        trial = setup.trial(
            name, steps=steps, epochs=1, recipe={"learning_rate": 0.02, "warmup_epochs": 0}
        )
        with setup.results.attempt(f"curve {name}"):
            expected, _ = compute_step_losses(trial, CPU, "fp32")
            for precision in TOLERANCES:
                with setup.results.attempt(f"curve {name} {precision}"):
                    _compare_curve(setup, name, trial, precision, expected)


def _compare_curve(
    setup: Setup, name: str, trial: Trial, precision: str, expected: list[float]
) -> None:
    with allow_tf32(precision == "tf32"):
        losses, scale = compute_step_losses(
            trial, setup.device, "fp32" if precision == "tf32" else precision
        )
    differences = [abs(a - b) / b for a, b in zip(losses, expected, strict=True)]
    worst = max(differences)
    setup.results.add(
        "curve",
        network=name,
        precision=precision,
        steps=len(losses),
        first_loss=expected[0],
        last_loss=expected[-1],
        max_relative_difference=worst,
        first_relative_difference=differences[0],
        worst_step=differences.index(worst) + 1,
        scale=scale,
        tolerance=TOLERANCES[precision],
        ok=worst <= TOLERANCES[precision],
    )


def compute_step_losses(
    trial: Trial, device: torch.device, precision: str
) -> tuple[list[float], float]:
    """Train one epoch; return the mean loss of each step, and the last scale of the gradient."""
    stepper = trial.make_stepper(device, precision)
    scaler = stepper.state.scaler
    if scaler.is_enabled():
        # With the initial scale of 65536 fp16 may overflow, and the scaler skip the first steps.
        scaler.load_state_dict(scaler.state_dict() | {"scale": FP16_SCALE})
    totals = list(stepper.train_epoch())
    sizes = [min(trial.batch, trial.rows - n * trial.batch) for n in range(trial.steps)]
    losses = [float(t.loss) / size for t, size in zip(totals, sizes, strict=True)]
    return losses, scaler.get_scale()


# The same training twice


def check_repeatability(setup: Setup) -> None:
    """Train twice; record the operators that warn that they are not deterministic."""
    for name in setup.names(*SPECS):
        for precision in ("bf16", "fp32"):
            with setup.results.attempt(f"repeat {name} {precision}"):
                trial = setup.trial(name)
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    first = trial.train(setup.device, precision)
                    second = trial.train(setup.device, precision)
                operators, others = _sort_warnings([str(w.message) for w in caught])
                ok = setup.add_equality(
                    "repeat",
                    trial,
                    (first, second),
                    network=name,
                    precision=precision,
                    not_deterministic=operators,
                    other_warnings=others,
                )
                if not ok:
                    found = find_unrepeatable(trial, setup.device, precision)
                    setup.results.add("repeat: one pass", network=name, differ=found)


def _sort_warnings(messages: list[str]) -> tuple[list[str], list[str]]:
    """Return the names of the operators without a deterministic algorithm, and other messages."""
    operators = {match[1] for text in messages if (match := _NOT_DETERMINISTIC.search(text))}
    others = {text[:200] for text in messages if not _NOT_DETERMINISTIC.search(text)}
    return sorted(operators), sorted(others)[:_MAX_NAMES]


def find_unrepeatable(trial: Trial, device: torch.device, precision: str) -> list[str]:
    """Return the first outputs and gradients that differ between two passes over one batch."""
    first, second = (_record_pass(trial, device, precision) for _ in range(2))
    return [key for key in first if not torch.equal(first[key], second[key])][:_MAX_NAMES]


def _record_pass(trial: Trial, device: torch.device, precision: str) -> dict[str, Tensor]:
    """Return the outputs of the layers and the gradients of one pass, in the order computed."""
    model = trial.build_model(device).train()
    recorded: dict[str, Tensor] = {}

    def make_hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, _: Any, output: Tensor) -> None:
            key = f"output of {name} ({type(module).__name__})"
            recorded[key] = output.detach().clone().cpu()

        return hook

    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(make_hook(name))
    config = trial.make_config(device)
    rows = torch.arange(trial.batch)
    with autocast(device, precision):
        logits = model(config.train.fetch(rows))
    F.cross_entropy(logits.float(), config.train.labels[rows].to(device)).backward()
    for name, p in reversed(list(model.named_parameters())):
        if p.grad is not None:
            recorded[f"gradient of {name}"] = p.grad.cpu()
    return recorded


# Interrupted trainings


def check_resume(setup: Setup) -> None:
    """Stop in the second epoch and resume from the checkpoint."""
    cases: list[tuple[str, str, str, dict[str, Any]]] = [
        ("average, clipping, mixing", "resnet20", "bf16", MIXING),
        ("Muon", "cnn", "bf16", MUON),
        ("gradient scaler", "resnet20", "fp16", {}),
        ("plain", "resnet18", "bf16", {}),
    ]
    for case, name, precision, recipe in cases[:3] if setup.smoke else cases:
        with setup.results.attempt(f"resume {case}"):
            trial = setup.trial(name, recipe=recipe)
            _compare_resumed(setup, "resume", trial, precision, case=case, network=name)


def _compare_resumed(
    setup: Setup, check: str, trial: Trial, precision: str, **values: Any
) -> loop.TrainingOutcome:
    """Compare an interrupted training with one that never stopped, which is returned."""
    expected = trial.train(setup.device, precision)
    stop_after = trial.steps + trial.steps // 2 + 1
    recorder = Recorder(stop_after=stop_after)
    stopped = trial.train(setup.device, precision, callback=recorder)
    step = stopped.stopped_at_step
    assert step is not None
    state = recorder.checkpoints[step]
    # On a CPU the optimiser adopts the tensors of the state and changes them.
    resumed = trial.train(setup.device, precision, resume=copy.deepcopy(state))
    values |= {"precision": precision, "stopped_at_step": step, "stop_requested_after": stop_after}
    if not setup.add_equality(check, trial, (expected, resumed), **values):
        explained = _explain_resumed(setup, trial, precision, state)
        setup.results.add(f"{check}: explained", **values, **explained)
    return expected


def _explain_resumed(
    setup: Setup, trial: Trial, precision: str, state: dict[str, Any]
) -> dict[str, Any]:
    """Compare the checkpoint of the stop, and those of the steps after it, with the whole training.

    The stop itself may be part of its checkpoint (`at_stop`).
    """
    whole = Recorder(every_step=True)
    trial.train(setup.device, precision, callback=whole)
    rest = Recorder(every_step=True)
    trial.train(setup.device, precision, callback=rest, resume=copy.deepcopy(state))
    explained: dict[str, Any] = {
        "at_stop": find_differences(whole.checkpoints[state["step"]], state)[:_MAX_NAMES],
        "first_step": None,
        "one_pass": find_unrepeatable(trial, setup.device, precision),
    }
    for step in sorted(rest.checkpoints):
        names = find_differences(whole.checkpoints[step], rest.checkpoints[step])
        if names:
            return explained | {"first_step": step, "differ": names[:_MAX_NAMES]}
    return explained


# Settings that must not change the result


def check_cuda_graphs(setup: Setup) -> None:
    """Compare a training with CUDA graphs with one without them."""
    if setup.needs_cuda("graphs"):
        return
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("cnn", "bf16", {}),
        ("resnet20", "bf16", MUON_CLIPPED),
        ("resnet20", "fp32", MUON_CLIPPED),
        ("resnet20", "bf16", MIXING),
        ("resnet20", "fp16", {"clip_gradient_norm": 0.5}),
        ("resnet18", "bf16", {}),
    ]
    for name, precision, recipe in cases:
        for micro_batches in (1, 2):
            with setup.results.attempt(f"graphs {name} {precision} {sorted(recipe)}"):
                trial = setup.trial(name, recipe=recipe, micro_batches=micro_batches)
                graphs = trial.train(setup.device, precision, cuda_graphs=True)
                eager = trial.train(setup.device, precision, cuda_graphs=False)
                setup.add_equality(
                    "graphs",
                    trial,
                    (graphs, eager),
                    network=name,
                    precision=precision,
                    recipe=sorted(recipe),
                    micro_batches=micro_batches,
                )


def check_graph_fallback(setup: Setup) -> None:
    """A function that cannot be captured goes on as it is, and the next can be captured."""
    name = "graph fallback"
    if setup.needs_cuda(name):
        return
    with setup.results.attempt(name):
        values = torch.arange(4.0, device=setup.device)

        def waits(factor: int, x: Tensor) -> Tensor:
            return x * factor * float(x.sum())  # reads a number from the device

        def runs(factor: int, x: Tensor) -> Tensor:
            return torch.nn.functional.dropout(x * factor, 0.5)

        waiting = GraphedFunction(waits, setup.device)
        running = GraphedFunction(runs, setup.device)
        right = all(torch.equal(waiting(values, constants=(2,)), values * 12) for _ in range(6))
        drawn = []
        for _ in range(2):
            for call in range(6):
                torch.cuda.manual_seed(call % 2)
                drawn.append(running(values, constants=(3,)).clone())
        seeded = all(torch.equal(drawn[call % 2], values) for call, values in enumerate(drawn))
        setup.results.add(
            name,
            results_right=right,
            gave_up=not waiting.enabled,
            captured_afterwards=len(running.captured),
            random_numbers_follow_the_seed=seeded,
            ok=right and not waiting.enabled and len(running.captured) == 1 and seeded,
        )


def check_micro_batches(setup: Setup) -> None:
    """Train on four micro-batches twice, and once more with an interruption."""
    for name in setup.names("cnn", "resnet18"):
        with setup.results.attempt(f"micro-batches {name}"):
            trial = setup.trial(name, micro_batches=4)
            first = _compare_resumed(setup, "micro-batches resumed", trial, "bf16", network=name)
            second = trial.train(setup.device, "bf16")
            setup.add_equality("micro-batches repeated", trial, (first, second), network=name)


def check_disk(setup: Setup) -> None:
    """Compare images that are read from disk with images in memory."""
    trial = setup.trial("resnet20", recipe=MIXING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = trial.make_images(trial.rows)
        write_split(folder / "train", "train", images, trial.network.classes, 64)
        store = DiskImages(folder / "train", folder / "cache", setup.device, lambda: None)
        from_disk = trial.train(setup.device, "bf16", store=store)
        in_memory = trial.train(setup.device, "bf16")
        setup.add_equality("images from disk", trial, (from_disk, in_memory))


# Errors


def check_divergence(setup: Setup) -> None:
    """Train with a huge learning rate: it ends with a message, and no bad checkpoint."""
    for name, precision, every_step in (
        ("cnn", "bf16", True),
        ("cnn", "bf16", False),
        ("resnet20", "fp32", False),
        ("resnet20", "fp16", True),
    ):
        with setup.results.attempt(f"not finite {name} {precision}"):
            trial = setup.trial(name, recipe={"learning_rate": 1e30, "warmup_epochs": 0})
            recorder = Recorder(every_step=every_step)
            message = ""
            try:
                trial.train(setup.device, precision, callback=recorder)
            except UserError as error:
                message = str(error)
            states = recorder.checkpoints
            bad_steps = [step for step, state in states.items() if not _is_finite(state)]
            named = re.search(r"epoch \d+, step \d+ of \d+", message) is not None
            setup.results.add(
                "not finite",
                network=name,
                precision=precision,
                message=message[:300],
                checkpoints=sorted(states),
                checkpoints_not_finite=bad_steps,
                ok=named and not bad_steps,
            )


def _is_finite(state: dict[str, Any]) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in state["model"].values())


def check_out_of_memory(setup: Setup) -> None:
    """Train on a batch that cannot fit, then on a small one in the same process."""
    if setup.needs_cuda("out of memory"):
        return
    allocated = torch.cuda.memory_allocated(setup.device)
    trial = Trial(Spec("resnet50", 32, 1), batch=HUGE_BATCH, steps=2, epochs=1)
    with setup.results.attempt("out of memory"):
        setup.results.add("out of memory", **_train_out_of_memory(trial, setup.device))
    with setup.results.attempt("after out of memory"):
        small = setup.trial("resnet18")
        pair = (small.train(setup.device, "bf16"), small.train(setup.device, "bf16"))
        setup.add_equality(
            "after out of memory",
            small,
            pair,
            allocated_before_gb=allocated / 1e9,
            allocated_after_gb=torch.cuda.memory_allocated(setup.device) / 1e9,
        )


def _train_out_of_memory(trial: Trial, device: torch.device) -> dict[str, Any]:
    """Return the error of a training whose batch cannot fit, and whether it helps the user."""
    message = ""
    kind = "none"
    try:
        trial.train(device, "fp32")
    # An error that is not translated, among them torch.OutOfMemoryError, is a RuntimeError.
    except (UserError, RuntimeError) as error:
        message = str(error)
        kind = type(error).__name__
    named = "micro_batch_size" in message and str(trial.batch) in message.replace(",", "")
    return {"error_type": kind, "message": message[:500], "ok": kind == "UserError" and named}


# The model: validation, memory layout, precision


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
                wrong=sorted(wrong)[:_MAX_NAMES],
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


# Process groups, in child processes


@dataclass(frozen=True)
class Child:
    """A process that trains as one rank, and the end of its pipe."""

    process: multiprocessing.process.BaseProcess
    connection: Connection


def start_ranks(backend: str, world: int, trial: Trial, device: torch.device) -> list[Child]:
    """Start `world` processes, which form a group, try its collectives and train."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    children = []
    for rank in range(world):
        ours, theirs = context.Pipe()
        arguments = (theirs, backend, rank, world, port, trial, device)
        # The interpreter ends daemons when it exits, so that none is left behind.
        process = context.Process(target=_run_rank, args=arguments, daemon=True)
        process.start()
        theirs.close()
        children.append(Child(process, ours))
    return children


def _run_rank(
    connection: Connection,
    backend: str,
    rank: int,
    world: int,
    port: int,
    trial: Trial,
    device: torch.device,
) -> None:
    """Join the group and send a dictionary of results to the parent process."""
    torch.set_num_threads(1)
    values: dict[str, Any] = {}
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(
            backend,
            init_method=f"tcp://127.0.0.1:{port}",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=GROUP_TIMEOUT_S),
        )
        values["collectives"] = try_collectives(rank, world, device)
        values["digest"] = trial.digest(trial.train(device, "bf16"))
    except Exception as error:  # noqa: BLE001 - the parent process records it
        values["error"] = f"{type(error).__name__}: {error}"[:500]
    connection.send(values)
    if dist.is_initialized():
        dist.destroy_process_group()


def try_collectives(rank: int, world: int, device: torch.device) -> dict[str, str]:
    """Return `right`, `wrong` or the error of each collective operation."""
    ranks = torch.arange(world, device=device, dtype=torch.float32)
    total = float(ranks.sum())

    def broadcast() -> bool:
        values = torch.full((3,), float(rank), device=device)
        dist.broadcast(values, 0)
        return values.tolist() == [0.0] * 3

    def all_reduce() -> bool:
        values = torch.full((3,), float(rank), device=device)
        dist.all_reduce(values)
        return values.tolist() == [total] * 3

    def all_to_all_single() -> bool:
        incoming = torch.empty(world, device=device)
        dist.all_to_all_single(incoming, torch.full((world,), float(rank), device=device))
        return torch.equal(incoming, ranks)

    def all_gather_into_tensor() -> bool:
        gathered = torch.empty(world, device=device)
        dist.all_gather_into_tensor(gathered, ranks[rank : rank + 1].clone())
        return torch.equal(gathered, ranks)

    def all_gather_object() -> bool:
        values: list[Any] = [None] * world
        dist.all_gather_object(values, f"rank {rank}")
        return values == [f"rank {r}" for r in range(world)]

    def kiln_broadcast_bytes() -> bool:
        data = bytes(range(100)) if rank == 0 else None
        return collectives.broadcast_bytes(data, device) == bytes(range(100))

    def kiln_gather_objects() -> bool:
        return collectives.gather_objects(rank) == list(range(world))

    found = {}
    for operation in (
        broadcast,
        all_reduce,
        all_to_all_single,
        all_gather_into_tensor,
        all_gather_object,
        kiln_broadcast_bytes,
        kiln_gather_objects,
    ):
        try:
            found[operation.__name__] = "right" if operation() else "wrong"
        except (RuntimeError, ValueError, TypeError, PeerLostError) as error:
            found[operation.__name__] = f"{type(error).__name__}: {error}"[:300]
    return found


class GroupCheck:
    """A training in a process group that must give the weights of one without a group.

    The children start at once and run beside the other checks.
    """

    def __init__(self, setup: Setup, name: str, backend: str, world: int) -> None:
        self.setup = setup
        self.name = name
        self.trial = setup.trial("resnet20", micro_batches=2, recipe={"ema_decay": 0.9})
        self.children = start_ranks(backend, world, self.trial, setup.device)

    def finish(self) -> None:
        """Wait for the children, and compare their weights with those of this process."""
        expected = self.trial.digest(self.trial.train(self.setup.device, "bf16"))
        deadline = time.monotonic() + GROUP_TIMEOUT_S
        for rank, child in enumerate(self.children):
            values = _receive(child, deadline)
            if "digest" in values:
                same = values.pop("digest") == expected
                all_right = set(values["collectives"].values()) == {"right"}
                values |= {"same_weights": same, "tolerance": 0, "ok": same and all_right}
            self.setup.results.add(self.name, rank=rank, world=len(self.children), **values)
        for child in self.children:
            child.process.terminate()


def _receive(child: Child, deadline: float) -> dict[str, Any]:
    """Return the results of a child, or the reason why there are none."""
    if not child.connection.poll(max(0.0, deadline - time.monotonic())):
        return {"error": f"no answer within {GROUP_TIMEOUT_S} s"}
    try:
        values: dict[str, Any] = child.connection.recv()
    except EOFError:
        return {"error": "the process ended without an answer"}
    return values


def start_groups(setup: Setup) -> None:
    """Start the children of all groups."""
    for name, (backend, world) in GROUPS.items():
        if not (backend == "nccl" and setup.needs_cuda(name)):
            with setup.results.attempt(name):
                setup.groups[name] = GroupCheck(setup, name, backend, world)


def finish_groups(setup: Setup) -> None:
    """Collect what the children have found."""
    for name, group in setup.groups.items():
        with setup.results.attempt(name):
            group.finish()


# Order of the checks, and the processes that run them


GROUPS = {"process group nccl": ("nccl", 1), "process group gloo": ("gloo", 2)}
"""Backend and number of ranks; several ranks share the GPU."""
CHECKS: dict[str, Callable[[Setup], None]] = {
    "curve": check_curves,
    "repeat": check_repeatability,
    "resume": check_resume,
    "graphs": check_cuda_graphs,
    "graph fallback": check_graph_fallback,
    "not finite": check_divergence,
    "validation": check_validation,
    "images from disk": check_disk,
    "channels-last": check_memory_format,
    "micro-batches": check_micro_batches,
    # The children must be gone before the probe measures and before memory runs out.
    "process groups": finish_groups,
    "probe": check_probe,
    "out of memory": check_out_of_memory,
}
"""All checks, in the order in which they run."""


def run_checks(out: Path, smoke: bool, names: list[str], begun: Connection) -> None:
    """Run the checks `names`; send the name of each before it begins."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else CPU
    setup = Setup(Results(out, "right"), device, smoke)
    if device == CPU:
        # On a CPU the weights depend on the number of threads; the ranks of a group have one.
        torch.set_num_threads(1)
    if "process groups" in names:
        start_groups(setup)
    for name in names:
        begun.send(name)
        start = time.monotonic()
        with setup.results.attempt(name):
            CHECKS[name](setup)
        setup.results.add("seconds", check=name, seconds=time.monotonic() - start)
        if device.type == "cuda":
            # Raises if the check lost the GPU, so that a new process goes on.
            torch.cuda.synchronize(device)


def run_worker(out: Path, smoke: bool, names: list[str]) -> list[str]:
    """Run checks in a new process; return those that it did not begin."""
    results = Results(out, "right")
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=run_checks, args=(out, smoke, names, sender))
    worker.start()
    sender.close()
    remaining = names
    try:
        while receiver.poll(CHECK_TIMEOUT_S):
            name = receiver.recv()
            remaining = names[names.index(name) + 1 :]
        results.add("worker", error=f"no progress for {CHECK_TIMEOUT_S} s", remaining=remaining)
        worker.kill()
    except EOFError:  # the process has ended, or is about to
        worker.join(10)
        if worker.exitcode != 0:
            results.add("worker", error=f"exit code {worker.exitcode}", remaining=remaining)
            worker.kill()
    return remaining if remaining != names else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    names = list(CHECKS)
    while names:
        names = run_worker(arguments.out, arguments.smoke, names)


if __name__ == "__main__":
    main()
