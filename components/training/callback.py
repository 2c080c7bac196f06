"""The training loop's interface to its environment: events, checkpoints and stop requests."""

from __future__ import annotations

from typing import Any, Protocol

from components.training.events import TrainingEvent


class TrainerCallback(Protocol):
    """Methods that the loop calls. Every rank has a callback; some methods are for rank 0 only."""

    def on_event(self, event: TrainingEvent) -> None:
        """Handle an event. Called on rank 0 only."""

    def on_step_begin(self, step: int) -> None:
        """Prepare for the optimiser step after global step `step`. Called on every rank."""

    def on_progress(self) -> None:
        """Record progress. Called on every rank after each step and validation batch."""

    def save_checkpoint(self, state: dict[str, Any], wait: bool) -> None:
        """Save the training state, and return only once it is written if `wait`.

        Called on rank 0 only. `state` is `TrainState.state_dict()`, whose tensors are copies.
        """

    def checkpoint_due(self, step: int) -> bool:
        """Return whether to save the state after global step `step`. Called on rank 0 only."""

    def preemption_pending(self) -> bool:
        """Return whether this rank's node is about to be taken away. Called on every rank.

        The loop saves a checkpoint the first time that any rank returns True.
        """

    def stop_requested(self) -> bool:
        """Return whether to save the state and end the training. Called on every rank.

        All ranks stop after the same step if any of them returns True.
        """


class NullCallback:
    """A callback that ignores events, saves nothing and never stops."""

    def on_event(self, event: TrainingEvent) -> None: ...
    def on_step_begin(self, step: int) -> None: ...
    def on_progress(self) -> None: ...
    def save_checkpoint(self, state: dict[str, Any], wait: bool) -> None: ...

    def checkpoint_due(self, step: int) -> bool:  # noqa: ARG002
        return False

    def preemption_pending(self) -> bool:
        return False

    def stop_requested(self) -> bool:
        return False


class ForwardingCallback:
    """A callback that passes every call to `inner`. Subclasses add to some of them."""

    def __init__(self, inner: TrainerCallback) -> None:
        self.inner = inner

    def on_event(self, event: TrainingEvent) -> None:
        self.inner.on_event(event)

    def on_step_begin(self, step: int) -> None:
        self.inner.on_step_begin(step)

    def on_progress(self) -> None:
        self.inner.on_progress()

    def save_checkpoint(self, state: dict[str, Any], wait: bool) -> None:
        self.inner.save_checkpoint(state, wait)

    def checkpoint_due(self, step: int) -> bool:
        return self.inner.checkpoint_due(step)

    def preemption_pending(self) -> bool:
        return self.inner.preemption_pending()

    def stop_requested(self) -> bool:
        return self.inner.stop_requested()
