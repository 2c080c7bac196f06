"""The LSTM and the attention network against independent computations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from components.errors import UserError
from components.models.attention import (
    HEADS,
    AttentionNet,
    EncoderBlock,
    build_attention,
    encode_positions,
)
from components.models.lstm import RowLSTM, build_lstm
from components.records.splits import Channels
from components.records.training import Network

pytestmark = pytest.mark.usefixtures("single_thread")


def describe(
    architecture: str, height: int = 28, columns: int = 28, channels: int = 1, width: int = 16
) -> Network:
    return Network(
        architecture=architecture,
        width=width,
        shape=(height, columns, channels),
        classes=["a", "b", "c"],
        channels=Channels(mean=[100.0] * channels, std=[50.0] * channels),
    )


def test_lstm_equals_its_equations_over_the_rows() -> None:
    torch.manual_seed(0)
    network = build_lstm(describe("lstm", 5, 4, 3)).double()
    assert isinstance(network, RowLSTM)
    images = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    hidden = cell = torch.zeros(2, 16, dtype=torch.float64)
    input_weight, state_weight, input_bias, state_bias = network.lstm.parameters()
    for row in range(5):
        # Pixels from left to right, the channels of a pixel side by side.
        x = torch.stack([images[:, c, row, w] for w in range(4) for c in range(3)], 1)
        gates = x @ input_weight.T + input_bias + hidden @ state_weight.T + state_bias
        keep_input, forget, candidate, output = gates.chunk(4, 1)
        cell = forget.sigmoid() * cell + keep_input.sigmoid() * candidate.tanh()
        hidden = output.sigmoid() * cell.tanh()
    torch.testing.assert_close(network(images), network.head(hidden), rtol=1e-10, atol=1e-10)


def test_lstm_takes_any_height_and_sees_every_row() -> None:
    network = build_lstm(describe("lstm"))
    for height in (1, 28, 40):
        images = torch.randn(1, 1, height, 28, requires_grad=True)
        (gradient,) = torch.autograd.grad(network(images).square().sum(), images)
        assert gradient.abs().sum((0, 1, 3)).gt(0).all()


def copy_to_torch(block: EncoderBlock, width: int) -> nn.TransformerEncoderLayer:
    """Return torch's layer with the weights of `block`."""
    layer = nn.TransformerEncoderLayer(
        width, HEADS, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
    ).double()
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (layer.self_attn.out_proj, block.projection),
        (layer.linear1, block.mlp[0]),
        (layer.linear2, block.mlp[2]),
        (layer.norm1, block.norm1),
        (layer.norm2, block.norm2),
    ]
    for target, source in pairs:
        target.load_state_dict(source.state_dict())
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(block.qkv.weight)
        layer.self_attn.in_proj_bias.copy_(block.qkv.bias)
    return layer


def test_encoder_block_equals_torchs_layer() -> None:
    torch.manual_seed(0)
    block = EncoderBlock(32).double()
    nn.init.normal_(block.qkv.bias)
    nn.init.normal_(block.norm1.bias)
    layer = copy_to_torch(block, 32)
    patches = 3 * torch.randn(2, 7, 32, dtype=torch.float64)
    torch.testing.assert_close(block(patches), layer(patches), rtol=1e-10, atol=1e-10)


def test_positions_are_sines_and_cosines_of_row_and_column() -> None:
    encodings = encode_positions(3, 5, 8, torch.device("cpu"))
    assert encodings.shape == (15, 8)
    for row in range(3):
        for column in range(5):
            expected = [
                function(place * frequency)
                for place in (row, column)
                for function in (math.sin, math.cos)
                for frequency in (1.0, 0.01)
            ]
            assert encodings[row * 5 + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_attention_distinguishes_positions_of_equal_patches() -> None:
    torch.manual_seed(0)
    network = build_attention(describe("attention")).eval()
    assert isinstance(network, AttentionNet)
    network.stem = nn.Identity()
    patches = torch.randn(1, 16, 6, 6)

    def compute(order: Tensor) -> Tensor:
        logits: Tensor = network(patches.flatten(2)[:, :, order].view_as(patches))
        return logits

    assert not torch.allclose(compute(torch.arange(36)), compute(torch.arange(36).flip(0)))


@pytest.mark.parametrize(
    ("height", "columns", "grid"),
    [(8, 8, (2, 2)), (28, 28, (7, 7)), (64, 64, (16, 16)), (65, 9, (9, 2)), (224, 100, (14, 7))],
)
def test_stem_leaves_at_most_16x16_patches(
    height: int, columns: int, grid: tuple[int, int]
) -> None:
    network = build_attention(describe("attention", height, columns)).eval()
    assert isinstance(network, AttentionNet)
    images = torch.randn(2, 1, height, columns)
    assert network.stem(images).shape == (2, 16, *grid)
    assert network(images).isfinite().all()


def test_weights_of_the_attention_network_fit_other_sizes() -> None:
    network = build_attention(describe("attention")).eval()
    assert network(torch.randn(2, 1, 40, 20)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(28, 28, 1), (64, 64, 3)])
def test_attention_network_is_small(shape: tuple[int, int, int]) -> None:
    network = build_attention(
        describe("attention", *shape).model_copy(update={"width": None, "classes": ["a"] * 10})
    )
    assert sum(p.numel() for p in network.parameters()) < 500_000


def test_width_that_does_not_divide_into_heads_is_refused() -> None:
    with pytest.raises(UserError, match=r"width 50: .* such as 48 or 52"):
        build_attention(describe("attention", width=50))


def test_batch_norm_follows_every_convolution_of_the_stem() -> None:
    """Muon sets the norm of a convolution, which this batch norm undoes."""
    torch.manual_seed(0)
    network = build_attention(describe("attention")).double().train()
    images = torch.randn(4, 1, 28, 28, dtype=torch.float64)
    with torch.no_grad():
        before = network(images)
        for weight in [p for p in network.parameters() if p.ndim == 4]:
            weight.mul_(3)
        torch.testing.assert_close(network(images), before, rtol=1e-3, atol=1e-3)
