"""Part `right`: checks that training on a GPU is right, against the CPU and against itself.

Arguments: `OUT [--smoke]`. Each check appends records to the results. A record has `ok` where there
is something to decide, with the `tolerance` that applied. With `--smoke` the sizes are tiny.
Without a GPU the CPU takes its place, and checks that need CUDA are recorded as skipped.
"""

from __future__ import annotations

from benchmarks.gpu_run.parts import parse_part_arguments
from benchmarks.gpu_run.right.runner import CHECKS, run_worker


def main() -> None:
    out, smoke = parse_part_arguments()
    names = list(CHECKS)
    while names:
        names = run_worker(out, smoke, names)


if __name__ == "__main__":
    main()
