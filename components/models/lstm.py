"""An LSTM that reads an image row by row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from components.records.training import Network

DEFAULT_WIDTH = 128


class RowLSTM(nn.Module):
    """One LSTM over the rows of an image, and a linear layer on its last hidden state."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1).flatten(2)  # (N, H, W * C), a view if x is channels-last
        # oneDNN has no LSTM in bfloat16 on many CPUs and raises an error there.
        with torch.autocast(x.device.type, enabled=False):
            _, (hidden, _) = self.lstm(rows)
        logits: Tensor = self.head(hidden[-1])
        return logits


def build_lstm(network: Network) -> nn.Module:
    """Build an LSTM over the rows of an image, as in TensorFlow's guide to recurrent networks.

    Each row is one step with W * C features (https://www.tensorflow.org/guide/keras/rnn). The
    hidden state has `width` or 128 numbers, and the last one is mapped to the classes.

    For 28x28x1 and ten classes it has
    4 * (28 * 128 + 128 * 128 + 2 * 128) + 1,290 = 82,186 parameters.

    The network maps `float (N, C, H, W)` of any H to logits `(N, K)`; its weights fit one W.
    """
    _, columns, channels = network.shape
    hidden = network.width or DEFAULT_WIDTH
    return RowLSTM(columns * channels, hidden, len(network.classes))
