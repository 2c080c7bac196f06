"""Measure Kiln beside its alternatives: `make bench`, or `make bench NAME=step` for one theme."""

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
from benchmarks.harness import Measurements, measure
from benchmarks.model import Settings, Theme
from components.console import echo, launch, print_table
from components.errors import UserError
from components.paths import ROOT

THEMES = ("throughput", "time_to_accuracy", "step", "start", "folders")
ON_DEMAND = ("accuracy", "first_hour", "ray", "record")
"""Long themes, which run only when they are named."""
RESULTS = ROOT / "benchmarks" / "results"
_MAX_IDLE_WAIT_S = 240


def main() -> None:
    args = _parse_arguments()
    known = THEMES + ON_DEMAND
    unknown = [name for name in args.themes if name not in known]
    if unknown:
        raise UserError(f"no such theme: {', '.join(unknown)}; there are {', '.join(known)}")
    if args.repeats < 3 and not args.smoke:
        raise UserError(
            f"--repeats {args.repeats}: a spread needs at least 3 (or --smoke, which claims "
            "nothing)"
        )
    # Raise SystemExit, so that the running contender is killed and the scratch folder deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = False
    # Keep the prefix short: Ray's sockets lie below this folder, and the path of a socket may have
    # at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="kiln-bench-") as scratch:
        settings = Settings(
            args.repeats, args.smoke, Path(scratch), args.rows, args.epochs, args.network
        )
        for name in args.themes or THEMES:
            theme: Theme = importlib.import_module(f"benchmarks.themes.{name}").theme(settings)
            load = os.getloadavg()[0] if args.smoke else _wait_until_idle()
            measurements = measure(theme, settings, echo)
            failed = failed or bool(measurements.failed)
            context = report.Context(
                machine.describe_machine(), load, datetime.now(UTC), args.smoke
            )
            _write_report(theme, measurements, context, args.out)
    if failed:
        sys.exit(1)


def _wait_until_idle() -> float:
    """Wait until the machine is idle, at most four minutes, and return the load average.

    The load is an average over a minute, so that what ran before still counts for a while.
    """
    end = time.monotonic() + _MAX_IDLE_WAIT_S
    while (load := os.getloadavg()[0]) > report.MAX_IDLE_LOAD and time.monotonic() < end:
        echo(f"waiting for a quiet machine: load {load:.1f}")
        time.sleep(20)
    return load


def _write_report(
    theme: Theme, measurements: Measurements, context: report.Context, folder: Path
) -> None:
    """Write the theme's results into `folder` and print the table of its targets."""
    name = f"{theme.name}_{machine.machine_slug()}_{context.time:%Y%m}"
    if context.smoke:
        name += "_smoke"
    paths = report.write(theme, measurements, context, folder / name)
    rows = [
        report.target_cells(result, context.smoke)
        for result in report.evaluate_targets(theme, measurements)
    ]
    print_table(theme.title, ["target", "wanted", "median (lowest to highest)", ""], rows)
    echo(f"{theme.name}: {', '.join(os.path.relpath(path) for path in paths)}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "themes",
        nargs="*",
        metavar="THEME",
        help=f"of {', '.join(THEMES)} (these if none is named) and {', '.join(ON_DEMAND)}",
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    parser.add_argument(
        "--rows", type=int, help="training images of `throughput`, `accuracy` and `ray`"
    )
    parser.add_argument("--epochs", type=int, help="epochs of `throughput` and `accuracy`")
    parser.add_argument(
        "--network", choices=("cnn", "resnet20"), default="cnn", help="of all three"
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="tiny: shows that every contender works, claims nothing",
    )
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="where results go (default benchmarks/results)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    launch(main)
