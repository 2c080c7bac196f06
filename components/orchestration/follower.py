"""The driver's view of a training: each event is shown, and logged to MLflow."""

from __future__ import annotations

from collections.abc import Callable

from components.console import ProgressBar, echo, format_duration
from components.orchestration.events import DriverEvent, Heartbeat, WorkersStarted
from components.records.training import Epoch
from components.tracking.training_run import TrainingRun
from components.training.events import (
    EpochFinished,
    FeaturesComputed,
    PrecisionProbed,
    Resumed,
    StepProgress,
    StoppedEarly,
    TrainingWarning,
)


class Follower(ProgressBar):
    """Shows the events of one training and logs its figures to an MLflow run.

    `on_precision` is called with the precision that the probe has chosen.
    """

    def __init__(
        self, label: str, epochs: int, run: TrainingRun, on_precision: Callable[[str], None]
    ) -> None:
        super().__init__(label)
        self.epochs = epochs
        self.run = run
        self.on_precision = on_precision
        self.workers: int | None = None

    def __call__(self, event: DriverEvent) -> None:
        """Handle one event."""
        match event:
            case StepProgress():
                self._show_step(event)
            case EpochFinished():
                self._show_epoch(event)
            case WorkersStarted(workers):
                if self.workers not in (None, workers):
                    self._echo(f"going on with {workers} workers instead of {self.workers}")
                self.workers = workers
            case PrecisionProbed():
                self._show_probe(event)
            case FeaturesComputed():
                self._show_features(event)
            case Resumed():
                self._echo(
                    f"continuing in epoch {event.epoch}/{self.epochs}, after step {event.step}"
                )
                for row in event.history:  # a driver that was killed may not have logged them
                    self.run.log_epoch(row)
            case StoppedEarly(epoch, epochs_without_improvement):
                self._echo(
                    f"stopped after epoch {epoch}: no improvement in "
                    f"{epochs_without_improvement} epochs"
                )
            case TrainingWarning(text):
                self._echo(text)
            case Heartbeat():
                pass

    def finish(self, history: list[Epoch], best: Epoch) -> None:
        """Log the best epoch, and any epoch whose event was lost."""
        for row in history:
            self.run.log_epoch(row)
        self.run.log_metrics({f"best_{key}": value for key, value in best.model_dump().items()})

    def _echo(self, text: str) -> None:
        echo(f"{self.label}: {text}")

    def _show_step(self, event: StepProgress) -> None:
        self.update(
            event.fraction_done,
            f"epoch {event.epoch}/{self.epochs}, step {event.step}, loss {event.mean_loss:.3f}, "
            f"{event.images_per_s:,.0f} images/s, {format_duration(event.seconds_left)} left",
        )

    def _show_features(self, event: FeaturesComputed) -> None:
        if event.done < event.images:
            self.update(0.0, f"features of {event.done:,} of {event.images:,} images")
        else:
            self._echo(
                f"computed the features of {event.images:,} images once, in "
                f"{format_duration(event.seconds)}: the backbone is frozen, and at most a "
                "flip changes the images"
            )

    def _show_epoch(self, event: EpochFinished) -> None:
        row = event.row
        self._echo(
            f"epoch {row.epoch}/{self.epochs}: loss {row.train_loss:.3f}, "
            f"train top-1 {row.train_top1:.2%}, val top-1 {row.val_top1:.2%}, "
            f"{event.images_per_s:,.0f} images/s"
        )
        self.run.log_epoch(row, {"images_per_s": event.images_per_s})

    def _show_probe(self, event: PrecisionProbed) -> None:
        measured = f"bf16 measured {event.speedup:.2f}x as fast as fp32, " if event.speedup else ""
        self._echo(f"precision {event.precision} ({measured}gradients agree to {event.cosine:.4f})")
        self.on_precision(event.precision)
        metrics = {"probe_speedup": event.speedup, "probe_cosine": event.cosine}
        self.run.log_metrics({key: value for key, value in metrics.items() if value is not None})
