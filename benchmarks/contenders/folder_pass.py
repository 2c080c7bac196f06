"""One pass of torchvision's `ImageFolder` under a `DataLoader`: `FOLDER WORKERS RESULT`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.contenders.common import write_result


def main() -> None:
    folder = sys.argv[1]
    workers = int(sys.argv[2])
    result = Path(sys.argv[3])
    start = time.perf_counter()
    loader = DataLoader(ImageFolder(folder, v2.PILToTensor()), batch_size=256, num_workers=workers)
    rows = sum(len(labels) for _, labels in loader)
    seconds = time.perf_counter() - start
    write_result(result, {"seconds": seconds, "images_per_s": rows / seconds})


if __name__ == "__main__":
    main()
