"""The preprocess stage from the end of its imports: `CHECKOUT RESULT`. Ray's start counts, for the stage starts it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from benchmarks.contenders.common import importing, report
from components.records.splits import Manifest


def main() -> None:
    checkout, result = Path(sys.argv[1]), Path(sys.argv[2])
    os.chdir(checkout)
    sys.path.insert(0, str(checkout))
    os.environ.update(importing(checkout))
    from pipelines import preprocess

    out = Path("data/prepared")
    shutil.rmtree(out, ignore_errors=True)
    begun = time.perf_counter()
    preprocess.run(out)
    seconds = time.perf_counter() - begun
    rows = sum(Manifest.read(out / split / "manifest.json").rows for split in ("train", "val", "test"))
    report(result, {"seconds": seconds, "images_per_s": rows / seconds})


if __name__ == "__main__":
    main()
