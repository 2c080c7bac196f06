"""The same training twice."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu_run.right.differences import MAX_NAMES
from benchmarks.gpu_run.right.setup import Setup
from benchmarks.gpu_run.right.trials import SPECS, Trial
from components.training.precision import autocast

_NOT_DETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")


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
    return sorted(operators), sorted(others)[:MAX_NAMES]


def find_unrepeatable(trial: Trial, device: torch.device, precision: str) -> list[str]:
    """Return the first outputs and gradients that differ between two passes over one batch."""
    first, second = (_record_pass(trial, device, precision) for _ in range(2))
    return [key for key in first if not torch.equal(first[key], second[key])][:MAX_NAMES]


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
