"""Optimisers and schedules: beside torch's own, resumed, and on several ranks."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from components.models.classifier import Classifier
from components.params import Recipe
from components.training.state import TrainState
from tests.unit.training.cases import run_on_ranks, train_on_rank

STEPS_PER_EPOCH = 10
STEPS = 100
RATE = 0.02
CONSTANT = {"schedule": "constant", "warmup_epochs": 0}

# Recipes, and torch's own optimiser of each.
OPTIMIZERS: dict[str, tuple[dict[str, Any], Callable[[Any], Optimizer]]] = {
    "sgd": (
        {"weight_decay": 0.01},
        lambda groups: SGD(groups, RATE, momentum=0.9, nesterov=True),
    ),
    "sgd without nesterov": (
        {"optimizer": {"name": "sgd", "nesterov": False}, "momentum": 0.5, "weight_decay": 0.01},
        lambda groups: SGD(groups, RATE, momentum=0.5),
    ),
    "adam": (
        {
            "optimizer": {"name": "adam", "betas": [0.8, 0.99], "epsilon": 1e-6},
            "weight_decay": 0.01,
        },
        lambda groups: Adam(groups, RATE, betas=(0.8, 0.99), eps=1e-6),
    ),
    "adamw": (
        {"optimizer": "adamw", "weight_decay": 0.01},
        lambda groups: AdamW(groups, RATE),
    ),
    "rmsprop": (
        {"optimizer": {"name": "rmsprop", "alpha": 0.95}, "weight_decay": 0.01},
        lambda groups: RMSprop(groups, RATE, alpha=0.95, momentum=0.9),
    ),
    "rmsprop, centered": (
        {
            "optimizer": {"name": "rmsprop", "centered": True, "epsilon": 1e-3},
            "momentum": 0,
            "weight_decay": 0.01,
        },
        lambda groups: RMSprop(groups, RATE, centered=True, eps=1e-3),
    ),
}
each_optimizer = pytest.mark.parametrize(
    ("values", "build_torch"), OPTIMIZERS.values(), ids=OPTIMIZERS
)
PENALTIES = {"l1_penalty": 1e-3, "clip_gradient_norm": 1.0}
NAMES = ["sgd", "adam", "adamw", "rmsprop"]


def warm_up(optimizer: Optimizer) -> LinearLR:
    """Return torch's warm-up over 15 steps, which are 1.5 epochs."""
    return LinearLR(optimizer, 1 / 16, total_iters=15)


def one_cycle(optimizer: Optimizer, **options: Any) -> OneCycleLR:
    peaks = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, peaks, total_steps=STEPS, cycle_momentum=False, **options)


# Recipes, and torch's own schedule of each.
SCHEDULES: dict[str, tuple[dict[str, Any], Callable[[Optimizer], LRScheduler]]] = {
    "cosine": (
        {"schedule": "cosine", "warmup_epochs": 1.5},
        lambda optimizer: SequentialLR(
            optimizer, [warm_up(optimizer), CosineAnnealingLR(optimizer, STEPS - 15)], [15]
        ),
    ),
    "one cycle": ({"schedule": "one_cycle"}, one_cycle),
    "one cycle with options": (
        {"schedule": {"name": "one_cycle", "pct_start": 0.123, "div_factor": 4}},
        lambda optimizer: one_cycle(optimizer, pct_start=0.123, div_factor=4),
    ),
    "milestones": (
        {
            "schedule": {"name": "step", "milestones": [1, 4, 7.5], "gamma": 0.3},
            "warmup_epochs": 1.5,
        },
        lambda optimizer: ChainedScheduler(
            [warm_up(optimizer), MultiStepLR(optimizer, [10, 40, 75], 0.3)]
        ),
    ),
    "every epochs": (
        {"schedule": {"name": "step", "every_epochs": 3}, "warmup_epochs": 0},
        lambda optimizer: StepLR(optimizer, 30),
    ),
    "thirds": (
        {"schedule": "step", "warmup_epochs": 0},
        lambda optimizer: MultiStepLR(optimizer, [34, 68]),
    ),
    "constant": ({"schedule": "constant", "warmup_epochs": 1.5}, warm_up),
}
each_schedule = pytest.mark.parametrize(
    ("values", "build_torch"), SCHEDULES.values(), ids=SCHEDULES
)


def make_model() -> Classifier:
    torch.manual_seed(0)
    # A bias in front of batch norm would have a gradient of rounding errors only.
    convolution = nn.Conv2d(1, 4, 3, bias=False)
    layers = [convolution, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)]
    return Classifier(nn.Sequential(*layers), [100.0], [60.0])


def make_state(
    model: Classifier | None = None, precision: str = "fp32", **values: Any
) -> TrainState:
    defaults = {"architecture": "cnn", "epochs": STEPS // STEPS_PER_EPOCH, "learning_rate": RATE}
    recipe = Recipe.model_validate(defaults | values)
    return TrainState(model or make_model(), recipe, STEPS_PER_EPOCH, precision)


def compute_loss(model: nn.Module, step: int) -> Tensor:
    """Return the loss of the step's random batch."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (8, 6, 6, 1), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (8,), generator=generator)
    return functional.cross_entropy(model(images), labels)


def advance(state: TrainState, stop: int) -> None:
    """Train until `stop` steps are done in all."""

    def compute(_: int) -> None:
        with state.reducer.fill_bucket():
            state.scaler.scale(compute_loss(state.model, state.step)).backward()

    while state.step < stop:
        state.reducer.reduce(1, compute)
        state.optimizer_step()


def restore(state: TrainState, **values: Any) -> TrainState:
    """Return a new state with what a checkpoint of `state` keeps."""
    buffer = io.BytesIO()
    torch.save(state.state_dict(), buffer)
    buffer.seek(0)
    restored = make_state(precision=state.precision, **values)
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    return restored


def copy_parameters(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def have_same_bits(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


def train_with_torch(
    build_optimizer: Callable[[Any], Optimizer],
    build_schedule: Callable[[Optimizer], LRScheduler] | None = None,
    *,
    weight_decay: float = 0.01,
    l1_penalty: float = 0.0,
    clip: float | None = None,
) -> tuple[list[Tensor], list[float]]:
    """Train by hand for 100 steps; return the parameters, and the learning rates."""
    model = make_model()
    convolution, _, _, _, linear = model.network.children()
    decayed = [p for p in model.parameters() if p is convolution.weight or p is linear.weight]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = build_optimizer(
        [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
    )
    schedule = build_schedule(optimizer) if build_schedule else None
    rates = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = compute_loss(model, step)
        for p in decayed:
            loss = loss + l1_penalty * p.abs().sum()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedule and step < STEPS - 1:
            schedule.step()
    return copy_parameters(model), rates


@each_optimizer
def test_optimizer_equals_that_of_torch_for_100_steps(
    values: dict[str, Any], build_torch: Callable[[Any], Optimizer]
) -> None:
    expected, _ = train_with_torch(build_torch)
    state = make_state(**CONSTANT, **values)
    before = copy_parameters(state.model)
    advance(state, STEPS)
    for start, p, q in zip(before, state.model.parameters(), expected, strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(p, start)


@each_schedule
def test_schedule_equals_that_of_torch_for_100_steps(
    values: dict[str, Any], build_torch: Callable[[Optimizer], LRScheduler]
) -> None:
    expected, expected_rates = train_with_torch(lambda groups: SGD(groups, RATE), build_torch)
    state = make_state(**values, momentum=0, weight_decay=0.01)
    rates = []
    for step in range(STEPS):
        advance(state, step + 1)
        rates.append(state.learning_rate)
    assert rates == pytest.approx(expected_rates, rel=1e-9, abs=0)
    torch.testing.assert_close(copy_parameters(state.model), expected)


@each_optimizer
def test_l1_penalty_equals_that_of_a_loss_with_magnitudes(
    values: dict[str, Any], build_torch: Callable[[Any], Optimizer]
) -> None:
    expected, _ = train_with_torch(build_torch, l1_penalty=0.01)
    state = make_state(**CONSTANT, **values, l1_penalty=0.01)
    advance(state, STEPS)
    torch.testing.assert_close(copy_parameters(state.model), expected)
    without, _ = train_with_torch(build_torch)
    assert not torch.allclose(expected[0], without[0])


@each_optimizer
def test_clipped_gradient_equals_that_of_torch(
    values: dict[str, Any], build_torch: Callable[[Any], Optimizer]
) -> None:
    expected, _ = train_with_torch(build_torch, clip=0.2)
    state = make_state(**CONSTANT, **values, clip_gradient_norm=0.2)
    advance(state, STEPS)
    torch.testing.assert_close(copy_parameters(state.model), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_penalties_leave_norms_and_biases_alone(name: str) -> None:
    plain = {"optimizer": name, "weight_decay": 0, **CONSTANT}
    one = make_state(**plain)
    other = make_state(**plain | {"weight_decay": 0.1, "l1_penalty": 0.1})
    for state in (one, other):
        advance(state, 1)
    for p, q in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(p, q) == (p.ndim < 2)


@pytest.mark.parametrize(
    "values",
    [
        *(PENALTIES | recipe for recipe, _ in OPTIMIZERS.values()),
        *(recipe for recipe, _ in SCHEDULES.values()),
    ],
    ids=[*OPTIMIZERS, *SCHEDULES],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_resumed_training_has_the_same_bits(values: dict[str, Any], precision: str) -> None:
    """With fp16 the scaler takes part; this loop computes in fp32."""
    state = make_state(precision=precision, **values)
    advance(state, 37)
    resumed = restore(state, **values)
    for one in (state, resumed):
        advance(one, STEPS)
    assert have_same_bits(state.model, resumed.model)
    assert resumed.learning_rate == state.learning_rate


@pytest.mark.parametrize("name", NAMES)
def test_scaler_of_fp16_changes_no_bit_and_skips_infinite_gradients(name: str) -> None:
    values = {"optimizer": name, "l1_penalty": 1e-3, **CONSTANT}
    plain = make_state(**values)
    scaled = make_state(precision="fp16", **values)
    for state in (plain, scaled):
        advance(state, 20)
    assert have_same_bits(scaled.model, plain.model)
    scale = scaled.scaler.get_scale()

    def overflow(_: int) -> None:
        with scaled.reducer.fill_bucket():
            (compute_loss(scaled.model, 0) * torch.inf).backward()

    scaled.reducer.reduce(1, overflow)
    scaled.optimizer_step()
    assert have_same_bits(scaled.model, plain.model)
    assert scaled.scaler.get_scale() < scale
    advance(scaled, 30)
    assert all(p.isfinite().all() for p in scaled.model.parameters())


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])
def test_checkpoint_of_a_captured_update_continues_on_a_cpu(name: str) -> None:
    values = {"optimizer": name, **CONSTANT}
    state = make_state(**values)
    advance(state, 5)
    for group in state.optimizer.param_groups:
        group["capturable"] = True  # as on a GPU, where torch's state is otherwise the same
    resumed = restore(state, **values)
    advance(resumed, 10)
    expected = make_state(**values)
    advance(expected, 10)
    assert have_same_bits(resumed.model, expected.model)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_backbone_keeps_every_bit_with_every_optimizer(name: str) -> None:
    model = make_model()
    model.freeze_backbone("4")
    state = make_state(model, optimizer=name, l1_penalty=0.01, **CONSTANT)
    advance(state, 5)
    start = make_model()
    *backbone, head = state.model.network.children()
    *initial_backbone, initial_head = start.network.children()
    assert have_same_bits(nn.ModuleList(backbone), nn.ModuleList(initial_backbone))
    assert not have_same_bits(head, initial_head)


@pytest.mark.parametrize("name", NAMES)
def test_backbone_moves_at_its_own_rate_with_every_optimizer(name: str) -> None:
    """After one step from the same gradients, distances are in proportion to the rates."""
    values: dict[str, Any] = {"optimizer": name, "weight_decay": 0, **CONSTANT}
    before = copy_parameters(make_model())
    distances = []
    for factor in (1.0, 0.1):
        state = make_state(backbone_learning_rate=factor, **values)
        advance(state, 1)
        after = copy_parameters(state.model)
        distances.append([float((p - q).norm()) for p, q in zip(after, before, strict=True)])
    for i, (full, reduced) in enumerate(zip(*distances, strict=True)):
        is_head = i >= 3
        assert full > 0
        assert reduced == pytest.approx(full * (1 if is_head else 0.1), rel=0.01)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 2), (1, 3), (2, 2), (5, 7)])
@pytest.mark.parametrize("name", ["one_cycle", "step", "constant"])
def test_short_trainings_have_no_rate_of_zero(name: str, epochs: int, steps: int) -> None:
    recipe = {"architecture": "cnn", "learning_rate": 0.4, "epochs": epochs, "schedule": name}
    state = TrainState(make_model(), Recipe.model_validate(recipe), steps, "fp32")
    rates = []
    for step in range(epochs * steps):
        advance(state, step + 1)
        rates.append(state.learning_rate)
    assert 0 < min(rates) <= max(rates) <= 0.4
    if name == "constant" or epochs * steps == 1:
        assert max(rates) == pytest.approx(0.4)


RECIPES: list[dict[str, Any]] = [
    {
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "weight_decay": 0.05,
        "l1_penalty": 1e-4,
        "clip_gradient_norm": 1.0,
        "ema_decay": 0.9,
        "schedule": {"name": "step", "milestones": [0.5, 1]},
    },
    {"optimizer": "adam", "learning_rate": 0.01, "schedule": "constant"},
    {"optimizer": "rmsprop", "learning_rate": 0.001, "schedule": "step"},
]


@pytest.mark.parametrize("values", RECIPES, ids=["adamw", "adam", "rmsprop"])
def test_weights_do_not_depend_on_world_size(values: dict[str, Any]) -> None:
    values = values | {"micro_batches": 2, "epochs": 2}
    single = run_on_ranks(1, train_on_rank, **values)
    assert single[0][1][-1]["val_top1"] > 0.5
    assert run_on_ranks(2, train_on_rank, **values) == single * 2
