"""Check and measure Kiln on one GPU: `python -m benchmarks.gpu_run --out DIR`.

Each part is a process with a time limit of its own. A part writes each result at once, so that a
part that fails or is killed costs no earlier result.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_run.parts import (
    LIMITS_S,
    SMOKE_LIMIT_S,
    TOTAL_S,
    Ended,
    Part,
    make_part,
    run_part,
)
from benchmarks.gpu_run.report import write_report

LOG = "log.txt"
_LINES_OF_A_FAILURE = 15


def main() -> None:
    args = _parse_arguments()
    # Raise SystemExit, so that the running part is killed too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    out = args.out.resolve()
    parts = [make_part(name, out, args.smoke) for name in args.parts]
    run(parts, out, SMOKE_LIMIT_S if args.smoke else TOTAL_S)


def run(parts: Sequence[Part], out: Path, total_s: float = TOTAL_S) -> None:
    """Run `parts` one after the other, and write `report.md` into `out` after each of them.

    A part that begins late gets the rest of `total_s`.
    """
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + total_s
    with (out / LOG).open("ab") as log:
        for part in parts:
            limit_s = min(part.limit_s, end - time.monotonic())
            if limit_s <= 0:
                _echo(f"{part.name}: not run: the {total_s:.0f} s of all parts are over")
                continue
            _echo(f"{part.name}: begins, at most {limit_s:.0f} s")
            log.write(f"\n===== {part.name} =====\n".encode())
            log.flush()
            start = log.tell()
            ended = run_part(part, limit_s, log)
            _report_end(part, ended, out / LOG, start)
            _write_report(out)


def _report_end(part: Part, ended: Ended, log: Path, start: int) -> None:
    """Print the end of a part. After a failure, also print its last lines of output."""
    match ended.exit_code:
        case 0:
            outcome = "finished"
        case None:
            outcome = "KILLED at its time limit"
        case code:
            outcome = f"FAILED with exit code {code}"
    _echo(f"{part.name}: {outcome} after {ended.seconds:.1f} s")
    if ended.exit_code != 0:
        with log.open("rb") as file:
            file.seek(start)
            lines = file.read().decode(errors="replace").splitlines()
        for line in lines[-_LINES_OF_A_FAILURE:]:
            _echo(f"    {line[:200]}")


def _write_report(out: Path) -> None:
    """Write the report of all results so far. An error is printed and ends nothing."""
    try:
        write_report(out)
    except Exception:  # noqa: BLE001 (the results themselves are safe)
        traceback.print_exc()


def _echo(line: str) -> None:
    print(line, flush=True)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_run", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument(
        "--smoke", action="store_true", help="tiny: shows that every part works, claims nothing"
    )
    parser.add_argument(
        "--parts", default=",".join(LIMITS_S), help="comma-separated (default %(default)s)"
    )
    args = parser.parse_args()
    args.parts = args.parts.split(",")
    unknown = [name for name in args.parts if name not in LIMITS_S]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(LIMITS_S)}")
    return args


if __name__ == "__main__":
    main()
