"""Learning-rate range test of a model in this process, without Ray, and its plot."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import joblib
import torch

from components.console import ProgressBar
from components.data.loading.image_stores import open_image_store
from components.files import write_bytes
from components.models import architectures
from components.params import Params
from components.paths import STATE
from components.training.callback import NullCallback
from components.training.config import LoopConfig
from components.training.events import FeaturesComputed, TrainingEvent
from components.training.learning_rate_finder import DEFAULT_STEPS, RangeTest, find_learning_rate

if TYPE_CHECKING:
    from components.training.plan import TrainingPlan


def run_range_test(plan: TrainingPlan, params: Params) -> RangeTest:
    """Run the test with the images and the recipe of a plan, on a GPU if there is one.

    It takes fp32, all cores of this machine and `DEFAULT_STEPS` steps. Nothing is saved.

    Raises:
        UserError: the network does not take the images, or its loss is infinite from the start.
    """
    architectures.check(plan.network, plan.recipe.train_sides)
    use_gpu = torch.cuda.is_available() and params.train.device != "cpu"
    device = torch.device("cuda" if use_gpu else "cpu")
    torch.set_num_threads(joblib.cpu_count())
    cache = STATE / "images"
    with ProgressBar(f"learning rate of {plan.model}") as bar:
        config = LoopConfig(
            network=plan.network,
            train=open_image_store(plan.train_data, params.train.images, cache, device, 1),
            val=open_image_store(plan.val_data, params.train.images, cache, device, 1),
            recipe=plan.recipe,
            global_batch=params.train.global_batch_size_of(plan.model),
            micro_batches=params.train.num_micro_batches(plan.model),
            seed=params.seed,
            device=device,
            initial=plan.initial,
            callback=_Progress(bar),
        )
        return find_learning_rate(config)


def plot_range_test(test: RangeTest, model: str, path: Path) -> None:
    """Write a PNG of the loss over the learning rate, with the suggested rate."""
    from matplotlib.figure import Figure  # takes a second to import

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(test.rates, test.losses, color="0.75", linewidth=1, label="each step")
    axes.plot(test.rates, test.smoothed, color="tab:blue", linewidth=2, label="smoothed")
    label = f"suggestion: {test.suggestion:.2g}"
    axes.axvline(test.suggestion, color="tab:orange", linestyle="--", label=label)
    low = min(test.losses)
    axes.set_ylim(0.9 * low, 1.2 * max(test.smoothed[0], low))
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss (nats per image)")
    axes.set_title(f"Learning-rate range test of {model}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, dpi=120, format="png")
    write_bytes(path, image.getvalue())


class _Progress(NullCallback):
    """Shows the number of steps, and of features of a frozen backbone."""

    def __init__(self, bar: ProgressBar) -> None:
        self.bar = bar

    def on_step_begin(self, step: int) -> None:
        self.bar.update(step / DEFAULT_STEPS, f"step {step} of {DEFAULT_STEPS}")

    def on_event(self, event: TrainingEvent) -> None:
        if isinstance(event, FeaturesComputed):
            self.bar.update(0.0, f"features of {event.done:,} of {event.images:,} images")
