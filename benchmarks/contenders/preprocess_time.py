"""Time of the preprocess stage, from the end of its imports: `CHECKOUT RESULT`.

The start of Ray is included, because the stage starts it.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from benchmarks.contenders.common import write_result
from benchmarks.processes import import_environment
from components.records.splits import Manifest


def main() -> None:
    checkout = Path(sys.argv[1])
    result = Path(sys.argv[2])
    os.chdir(checkout)
    sys.path.insert(0, str(checkout))
    os.environ.update(import_environment(checkout))
    from pipelines import preprocess

    out = Path("data/prepared")
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    preprocess.run(out)
    seconds = time.perf_counter() - start
    splits = ("train", "val", "test")
    rows = sum(Manifest.read(out / split / "manifest.json").rows for split in splits)
    write_result(result, {"seconds": seconds, "images_per_s": rows / seconds})


if __name__ == "__main__":
    main()
