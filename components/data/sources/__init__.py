"""The table of sources. To add one: a module with `load`, a line here, a section in `components.params`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.data.images import Images
from components.data.sources import idx
from components.params import IdxSource


@dataclass(frozen=True)
class Raw:
    """A source as it is: its official `train` and `test` images and the names of its classes."""

    train: Images
    test: Images
    classes: list[str]

    @property
    def sha256(self) -> str:
        """Digest of the content: pixels, labels, ids and classes, however the files held them."""
        digest = hashlib.sha256(json.dumps([self.classes, self.train.ids, self.test.ids]).encode())
        for images in (self.train, self.test):
            digest.update(str(images.pixels.shape).encode())
            digest.update(np.ascontiguousarray(images.pixels).data)
            digest.update(np.ascontiguousarray(images.labels).data)
        return digest.hexdigest()


def load(source: IdxSource) -> Raw:
    """Reads a source whole. Raises `UserError` before anything is returned if a file is missing, altered or malformed."""
    return Raw(*idx.load(Path(source.path)))
