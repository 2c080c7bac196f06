"""Measures Kiln beside what people would use instead: `make bench`, or `make bench NAME=step` for one theme."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import machine, report
from benchmarks.harness import Measured, measure
from benchmarks.model import Settings, Theme
from components.console import launch, say, table
from components.errors import UserError
from components.paths import ROOT

THEMES = ("throughput", "time_to_accuracy", "step", "start", "folders")
# Long, so only when they are named.
ON_DEMAND = ("accuracy", "ray", "record")
# With those that are measured by default, on a machine that has one.
ON_GPU = ("gpu",)
_PATIENCE_S = 240
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    args = _arguments()
    known = THEMES + ON_DEMAND + ON_GPU
    unknown = [name for name in args.themes if name not in known]
    if unknown:
        raise UserError(f"no such theme: {', '.join(unknown)}; there are {', '.join(known)}")
    if args.repeats < 3 and not args.smoke:
        raise UserError(f"--repeats {args.repeats}: a spread needs at least 3 (or --smoke, which claims nothing)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the running contender and removes what it left
    bad = False
    # Short, because sockets of Ray's live below it.
    with tempfile.TemporaryDirectory(prefix="kiln-bench-") as scratch:
        settings = Settings(args.repeats, args.smoke, Path(scratch), args.rows, args.epochs, args.network)
        for name in args.themes or _by_default():
            theme: Theme = importlib.import_module(f"benchmarks.themes.{name}").theme(settings)
            load = os.getloadavg()[0] if args.smoke else _quiet()
            measured = measure(theme, settings, say)
            bad = bad or bool(measured.failed)
            _leave(theme, measured, args, load)
    if bad:
        sys.exit(1)


def _by_default() -> tuple[str, ...]:
    if machine.gpu():
        return THEMES + ON_GPU
    say(f"{', '.join(ON_GPU)}: SKIPPED: no GPU on this machine")
    return THEMES


def _quiet() -> float:
    """Waits a while for the load of what ran before to decay (it is an average over a minute); returns what is left of it."""
    end = time.monotonic() + _PATIENCE_S
    while (load := os.getloadavg()[0]) > report.QUIET and time.monotonic() < end:
        say(f"waiting for a quiet machine: load {load:.1f}")
        time.sleep(20)
    return load


def _leave(theme: Theme, measured: Measured, args: argparse.Namespace, load: float) -> None:
    now = datetime.now(UTC)
    name = f"{theme.name}_{machine.slug(theme.gpu)}_{now:%Y%m}" + ("_smoke" if args.smoke else "")
    paths = report.write(theme, measured, machine.facts(), load, args.out / name, now, args.smoke)
    rows = [
        [f"{found.target.number}. {found.target.text}", f"{'>=' if found.target.at_least else '<='} {found.target.bound:g}",
         found.spread.text() if found.spread else "-", report.verdict(found, args.smoke)]
        for found in report.judgements(theme, measured)
    ]  # fmt: skip
    table(theme.title, ["target", "wanted", "median (lowest to highest)", ""], rows)
    say(f"{theme.name}: {', '.join(os.path.relpath(path) for path in paths)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "themes", nargs="*", metavar="THEME",
        help=f"of {', '.join(THEMES)} (these if none is named, and on a GPU {', '.join(ON_GPU)}) and {', '.join(ON_DEMAND)}",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--rows", type=int, help="training images of `throughput`, `accuracy` and `ray`")
    parser.add_argument("--epochs", type=int, help="epochs of `throughput` and `accuracy`")
    parser.add_argument("--network", choices=("cnn", "resnet20"), default="cnn", help="of all three")
    parser.add_argument("--smoke", action="store_true", help="tiny: shows that every contender works, claims nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go (default benchmarks/results)")
    return parser.parse_args()


if __name__ == "__main__":
    launch(main)
