"""How close Kiln's step is to what the machine can do, and what its parts cost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from benchmarks import data
from benchmarks.model import Case, Round, Settings, Target, Theme, figure, ratio

DATA, CONVOLUTIONS, SAVING, TRACKING = (
    "kiln data path",
    "kiln resnet18 and its convolutions",
    "kiln checkpoint",
    "kiln tracking",
)
TWO, ONE_BY_TWO, ONE_BY_ONE = "kiln 2 processes x 1 thread", "1 process x 2 threads", "1 process x 1 thread"
# In one process a batch may be computed whole or, as two processes would, in two halves: whichever is faster is the rival.
WAYS = {"": 1, " in halves": 2}
PROBED = ("cnn", "resnet20", "resnet18")


def theme(settings: Settings) -> Theme:
    small = settings.smoke
    prepared = data.prepared()
    folder = str(data.cut(prepared, settings.scratch / "step-data", 2000, 500) if small else prepared)
    steps, batch, few = ("4", "16", "1") if small else ("24", "256", "4")
    cases = [
        Case(DATA, _two("data_path", folder, "1" if small else "5", "{result}")),
        Case(TWO, _two("step_rate", folder, "1", "2", steps, "{result}")),
        *(
            Case(name + way, _one("step_rate", folder, threads, str(parts), steps, "{result}"))
            for name, threads in ((ONE_BY_TWO, "2"), (ONE_BY_ONE, "1"))
            for way, parts in WAYS.items()
        ),
        Case(CONVOLUTIONS, _two("convolutions", batch, few, "{result}")),
        *(
            Case(_probe(name), _two("probing", folder, name, "1" if small or name == "resnet18" else "4", "{result}"))
            for name in PROBED
        ),
        Case(SAVING, _one("saving", batch, few, "{result}")),
        Case(TRACKING, _one("tracking_cost", folder, "4" if small else "90", "1" if small else "6", "{result}")),
    ]
    return Theme(
        name="step",
        title="Kiln's step beside what the machine can do",
        metric="images_per_s",
        unit="images/s",
        cases=cases,
        targets=_targets(),
        conditions=[
            f"{DATA}: cnn, flip and crop, global batch 256, 2 processes of one thread; blocks of 8 steps in turns with the "
            "same step on one batch made beforehand; what is drawn once per epoch is added in; the file is in memory's cache",
            f"{TWO} and its rivals: cnn, flip, global batch 256, the same step",
            f"{CONVOLUTIONS}: random images of 32 x 32 x 3, global batch {batch}, 2 processes of one thread, in turns",
            f"probe: Fashion-MNIST, {' and '.join(PROBED)}, 128 images per process, best of several passes",
            f"{SAVING}: ResNet-18 at 32 x 32 with momentum and best weights, written durably; an epoch is 54,000 images; "
            "1 process of 2 threads; the time of the writing thread is counted in full",
            f"{TRACKING}: cnn, SQLite, 1 process of 2 threads, in turns; Kiln itself logs epochs",
        ],
    )


def _targets() -> list[Target]:
    ways = {name: [name + way for way in WAYS] for name in (ONE_BY_TWO, ONE_BY_ONE)}
    return [
        Target("4", "resident: loading and augmentation to one batch made beforehand",
               lambda f: figure(f, DATA, "loading_images_per_s") / figure(f, DATA, "made_images_per_s"), 0.97),
        Target("4", "streaming from a file of the disk: the same",
               lambda f: figure(f, DATA, "streaming_images_per_s") / figure(f, DATA, "made_images_per_s"), 0.9),
        Target("5", "two processes of one thread to one of two", ratio(TWO, ways[ONE_BY_TWO], "images_per_s"), 0.95),
        Target("5", "two processes of one thread to one of one", ratio(TWO, ways[ONE_BY_ONE], "images_per_s"), 1.8),
        Target("6", "ResNet-18 at 32 x 32: bare convolutions' time to the step's",
               lambda f: figure(f, CONVOLUTIONS, "convolutions_s") / figure(f, CONVOLUTIONS, "step_s"), 0.7),
        Target("7", "the best of four combinations to the one picked, worst network", _over(min, "best_to_picked"), 0.98),
        Target("7", "seconds of the probe, longest", _over(max, "probe_s"), 2.0, at_least=False),
        Target("7", "cosine of the picked combination's gradient to fp32's, worst", _over(min, "cosine"), 0.97),
        Target("9", "share of the step loop that tracking costs, with figures of every step",
               lambda f: figure(f, TRACKING, "cost"), 0.01, at_least=False),
        Target("11", "share of an epoch that a checkpoint costs", lambda f: figure(f, SAVING, "share"), 0.02, at_least=False),
    ]  # fmt: skip


def _over(choose: Callable[[Iterable[float]], float], metric: str) -> Callable[[Round], float]:
    def value(figures: Round) -> float:
        return choose(figure(figures, _probe(name), metric) for name in PROBED)

    return value


def _probe(architecture: str) -> str:
    return f"kiln probe, {architecture}"


def _one(module: str, *words: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.contenders.{module}", *words]


def _two(module: str, *words: str) -> list[str]:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*run, "--module", f"benchmarks.contenders.{module}", *words]
