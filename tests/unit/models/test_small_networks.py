"""Requirements that the presets, the LSTM and the attention network share."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.models.architectures import BUILDERS, build
from components.models.classifier import Classifier
from components.params.base import STEMS
from components.records.splits import Channels
from components.records.training import Network
from tests.conftest import make_images

ARCHITECTURES = sorted(BUILDERS.keys() - STEMS.keys() - {"cnn"})
HEIGHT, WIDTH = 24, 22
pytestmark = pytest.mark.usefixtures("single_thread")


def describe(architecture: str, channels: int = 1) -> Network:
    return Network(
        architecture=architecture,
        width=None,
        shape=(HEIGHT, WIDTH, channels),
        classes=["a", "b"] if architecture == "binary_cnn" else ["a", "b", "c"],
        channels=Channels(mean=[100.0] * channels, std=[50.0] * channels),
    )


def make_module(network: Network) -> Classifier:
    """Return the module that Kiln trains, with the same weights at every call."""
    torch.manual_seed(0)
    return build(network).to(memory_format=torch.channels_last)


def make_batch(rows: int, channels: int, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return images `uint8 (rows, H, W, C)` of a problem that is easy to learn, and labels."""
    images = make_images(rows, classes, HEIGHT, channels, seed)
    return torch.from_numpy(images.pixels[:, :, :WIDTH]), torch.from_numpy(images.labels)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Raise an error at an operation without a deterministic algorithm, as in training."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode(mode)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("channels", [1, 4])
def test_logits_are_finite_for_any_number_of_channels(architecture: str, channels: int) -> None:
    network = describe(architecture, channels)
    images, _ = make_batch(5, channels)
    logits = make_module(network).eval()(images)
    assert logits.shape == (5, len(network.classes))
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_memory_layout_of_the_images_does_not_matter(architecture: str) -> None:
    module = make_module(describe(architecture, 3)).network.eval()
    images = torch.randn(4, 3, HEIGHT, WIDTH)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(module(channels_last), module(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_of_an_image_do_not_depend_on_the_other_images(architecture: str) -> None:
    module = make_module(describe(architecture)).eval()
    images, _ = make_batch(6, 1)
    torch.testing.assert_close(module(images)[2:3], module(images[2:3]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exported_program_gives_the_same_bits_for_any_batch_size(architecture: str) -> None:
    module = make_module(describe(architecture)).eval()
    example = torch.zeros(2, HEIGHT, WIDTH, 1, dtype=torch.uint8)
    batch = {0: torch.export.Dim.AUTO}
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=[batch]), file)
    file.seek(0)
    program = torch.export.load(file).module()
    for rows in (1, 3, 8):
        images, _ = make_batch(rows, 1)
        with torch.inference_mode():
            assert torch.equal(program(images), module(images))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_description_gives_the_shapes_of_all_tensors_without_memory(architecture: str) -> None:
    with torch.device("meta"):
        planned = BUILDERS[architecture](describe(architecture))
    module = BUILDERS[architecture](describe(architecture))
    assert all(tensor.is_meta for tensor in planned.state_dict().values())
    assert {name: tensor.shape for name, tensor in planned.state_dict().items()} == {
        name: tensor.shape for name, tensor in module.state_dict().items()
    }
    assert {name for name, _ in module.named_buffers()} <= module.state_dict().keys()


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_the_same_bits_for_the_same_seed(architecture: str, precision: str) -> None:
    images, labels = make_batch(8, 1, classes=2)

    def compute() -> list[Tensor]:
        module = make_module(describe(architecture)).train()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = module(images)
        F.cross_entropy(logits.float(), labels).backward()
        return [p.grad for p in module.parameters() if p.grad is not None]

    gradients = compute()
    assert len(gradients) == len(list(make_module(describe(architecture)).parameters()))
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)
    assert all(map(torch.equal, gradients, compute()))


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_thirty_steps_learn_a_toy_problem(architecture: str) -> None:
    network = describe(architecture)
    module = make_module(network)
    images, labels = make_batch(18, 1, len(network.classes))
    unseen, unseen_labels = make_batch(27, 1, len(network.classes), seed=1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, nesterov=True)

    def evaluate() -> tuple[float, float]:
        """Return loss and accuracy on images that were not trained on."""
        with torch.inference_mode():
            logits = module.eval()(unseen)
        loss = F.cross_entropy(logits, unseen_labels)
        return float(loss), float((logits.argmax(1) == unseen_labels).float().mean())

    before, _ = evaluate()
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(module.train()(images), labels).backward()
        optimizer.step()
    after, accuracy = evaluate()
    assert after < before / 2
    assert accuracy > 0.8
