"""The one path from a picture to probabilities: pixels, network and softmax as in evaluate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import nn

from components.data.preparation.description import PIXEL_RULES, make_rules
from components.data.preparation.rules import DecoderRules
from components.data.preparation.survey import Imap
from components.data.sources.base import ImageSource, Refusal
from components.errors import UserError
from components.evaluation.metrics import compute_probabilities
from components.evaluation.predict import predict_batches
from components.params import Limits
from components.records.splits import Preparation
from components.records.training import Network
from components.serving.prepared import PreparedImage, prepare_images


class PredictedImage(NamedTuple):
    """The id of an image, and its probabilities `float64 (K,)` or why it has none."""

    id: str
    result: np.ndarray | Refusal


@dataclass(frozen=True)
class Predictor:
    """A model with all that is needed to apply it to pictures.

    `module` turns `uint8 (N, H, W, C)` into logits. Up to `batch_size` images go through it at
    once. Logits depend on it in their last bits; with that of `evaluate`, the images of a test
    split get the probabilities of their evaluation to the bit.
    """

    module: nn.Module
    network: Network
    preparation: Preparation
    batch_size: int

    @classmethod
    def create(cls, name: str, module: nn.Module, network: Network, batch_size: int) -> Predictor:
        """Return the predictor of a loaded model, which messages call `name`.

        Raises:
            UserError: the model does not say how its images are prepared, or by other rules than
                this version of Kiln has.
        """
        preparation = network.preparation
        if preparation is None:
            raise UserError(
                f"{name} was trained by an earlier Kiln and does not say how pictures are resized "
                "for it; run `dvc repro`, which trains and registers it anew, and promote that "
                "version"
            )
        if preparation.rules != PIXEL_RULES:
            raise UserError(
                f"the images of {name} were prepared by rules {preparation.rules}, and this Kiln "
                f"has rules {PIXEL_RULES}, which give other pixels; use the Kiln of its commit "
                "(`python -m pipelines.trace` names it), or train it anew with `dvc repro`"
            )
        return cls(module, network, preparation, batch_size)

    def make_rules(self, limits: Limits) -> DecoderRules:
        """Return the decoder's rules for pictures: those of the training images, and `limits`."""
        height, width, channels = self.network.shape
        return make_rules(self.preparation, (height, width), channels, limits)

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        """Return the probabilities, `float64 (N, K)`, of prepared images `uint8 (N, H, W, C)`.

        They are one batch. Sets the number of torch threads of this process to 1.
        """
        logits, _ = predict_batches(self.module, pixels, max(1, len(pixels)), [0])
        return compute_probabilities(logits[0])

    def predict_source(
        self, source: ImageSource, limits: Limits, imap: Imap
    ) -> Iterator[list[PredictedImage]]:
        """Yield the results of all entries of a source, in order, one batch at a time.

        A batch has `batch_size` images that could be read, and those among them that could not.
        Memory is bounded by a batch and by the chunks that `imap` works on.
        """
        prepared = prepare_images(source, self.network.shape, self.make_rules(limits), imap)
        batch: list[PreparedImage] = []
        readable = 0
        for image in prepared:
            batch.append(image)
            readable += isinstance(image.image, np.ndarray)
            if readable == self.batch_size:
                yield self._predict_batch(batch)
                batch = []
                readable = 0
        if batch:
            yield self._predict_batch(batch)

    def _predict_batch(self, batch: Sequence[PreparedImage]) -> list[PredictedImage]:
        pixels = [image.image for image in batch if isinstance(image.image, np.ndarray)]
        rows = iter(self.predict(np.stack(pixels)) if pixels else ())
        return [
            PredictedImage(
                image.id, next(rows) if isinstance(image.image, np.ndarray) else image.image
            )
            for image in batch
        ]
