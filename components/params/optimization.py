"""Optimisers and learning-rate schedules of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from components.params.base import Boolean, Number, Section

_Beta = Annotated[Number, Field(ge=0, lt=1)]
_Epochs = Annotated[Number, Field(gt=0)]


class SgdOptimizer(Section):
    """Stochastic gradient descent with `momentum` (torch.optim.SGD)."""

    name: Literal["sgd"] = "sgd"
    nesterov: Boolean = True
    """Use Nesterov's form of the momentum."""


class AdamOptimizer(Section):
    """Adam (arXiv:1412.6980, torch.optim.Adam)."""

    name: Literal["adam"] = "adam"
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    """Decay per step of the averages of the gradient and of its square."""
    epsilon: Annotated[Number, Field(gt=0)] = 1e-8
    """Number that is added to the denominator of a step."""


class AdamWOptimizer(Section):
    """Adam with decoupled weight decay (arXiv:1711.05101, torch.optim.AdamW)."""

    name: Literal["adamw"] = "adamw"
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    """Decay per step of the averages of the gradient and of its square."""
    epsilon: Annotated[Number, Field(gt=0)] = 1e-8
    """Number that is added to the denominator of a step."""


class RmsPropOptimizer(Section):
    """RMSprop with `momentum` (torch.optim.RMSprop)."""

    name: Literal["rmsprop"] = "rmsprop"
    alpha: Annotated[Number, Field(ge=0, lt=1)] = 0.99
    """Decay per step of the average of the squared gradient."""
    epsilon: Annotated[Number, Field(gt=0)] = 1e-8
    """Number that is added to the denominator of a step."""
    centered: Boolean = False
    """Divide by the standard deviation of the gradient, not by its root mean square."""


class CosineSchedule(Section):
    """Half a cosine from the peak to zero, after the warm-up (arXiv:1608.03983)."""

    name: Literal["cosine"] = "cosine"


class OneCycleSchedule(Section):
    """A rise to the peak and a longer fall, both cosines (arXiv:1708.07120, torch's OneCycleLR).
    The momentum stays as it is."""

    name: Literal["one_cycle"] = "one_cycle"
    pct_start: Annotated[Number, Field(gt=0, lt=1)] = 0.3
    """Fraction of the training in which the rate rises. It takes the place of `warmup_epochs`."""
    div_factor: Annotated[Number, Field(ge=1)] = 25.0
    """Peak rate divided by the first one."""
    final_div_factor: Annotated[Number, Field(ge=1)] = 1e4
    """First rate divided by the last one."""


class StepSchedule(Section):
    """Multiply the rate by `gamma` at some epochs (torch's MultiStepLR and StepLR), after the
    warm-up. Without `milestones` and `every_epochs`, it does so after each third of the training.
    """

    name: Literal["step"] = "step"
    milestones: list[_Epochs] = []
    """Epochs after which the rate is multiplied, counted from the start of the training."""
    every_epochs: _Epochs | None = None
    """Epochs between two multiplications, instead of `milestones`."""
    gamma: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    """Factor of the rate."""

    @model_validator(mode="after")
    def _check_choice(self) -> StepSchedule:
        if self.milestones and self.every_epochs is not None:
            raise ValueError("found both milestones and every_epochs; leave one of them out")
        if any(b <= a for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ValueError(
                f"milestones is {_join(self.milestones)}; list epochs in ascending order, each once"
            )
        return self

    def find_problem(self, epochs: int) -> str | None:
        """Return why a training of so many epochs cannot follow the schedule, or None."""
        if self.milestones and self.milestones[-1] >= epochs:
            return (
                f"schedule has the milestone {self.milestones[-1]:g}, which a training of "
                f"{epochs} epochs does not reach; choose milestones below {epochs}, or more epochs"
            )
        if self.every_epochs is not None and self.every_epochs >= epochs:
            return (
                f"schedule has every_epochs {self.every_epochs:g}, which a training of "
                f"{epochs} epochs does not reach; choose fewer than {epochs}, or more epochs"
            )
        return None


class ConstantSchedule(Section):
    """The peak rate, after the warm-up."""

    name: Literal["constant"] = "constant"


def _expand_name(value: Any) -> Any:
    """Return the mapping that a bare name is short for."""
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict | Section):
        raise ValueError(
            f"found {value!r}; a name, or a mapping of a name and its options, is needed"
        )
    return value


def _join(numbers: list[float]) -> str:
    return f"[{', '.join(f'{number:g}' for number in numbers)}]"


Optimizer = Annotated[
    SgdOptimizer | AdamOptimizer | AdamWOptimizer | RmsPropOptimizer,
    Field(discriminator="name"),
    BeforeValidator(_expand_name),
]
Schedule = Annotated[
    CosineSchedule | OneCycleSchedule | StepSchedule | ConstantSchedule,
    Field(discriminator="name"),
    BeforeValidator(_expand_name),
]
