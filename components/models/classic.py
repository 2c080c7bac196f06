"""Small networks of well-known tutorials, with their layers unchanged.

All are 3x3 convolutions without padding, each with a bias and ReLU, and dense layers on the
flattened result. So the number of parameters depends on the size of the images, and the weights fit
one size only. Images of a few hundred pixels give dense layers of millions of parameters: the
architectures that pool over all positions (`cnn`, `resnet20`) suit them better.

The outputs are logits: the softmax or sigmoid of the originals is part of the loss. The parameters
in the docstrings are counted layer by layer.
"""

from __future__ import annotations

import itertools

from torch import nn

from components.errors import UserError
from components.records.training import Network


def build_mnist_cnn(network: Network) -> nn.Module:
    """Build the network of PyTorch's MNIST example.

    Two convolutions of 32 and 64 channels, 2x2 max-pooling, dropout 0.25, a dense layer of 128,
    dropout 0.5 (https://github.com/pytorch/examples/blob/main/mnist/main.py; Keras' first MNIST
    example was the same).

    For 28x28x1 and ten classes it has
    320 + 18,496 + (12 * 12 * 64 + 1) * 128 + 1,290 = 1,199,882 parameters.

    Raises:
        UserError: A side of the images is shorter than 6 pixels.
    """
    features = [
        *_make_convolution(network.shape[2], 32),
        *_make_convolution(32, 64, nn.MaxPool2d(2)),
        nn.Dropout(0.25),
    ]
    return nn.Sequential(
        *features,
        *_make_dense(network, features, 128),
        nn.Dropout(0.5),
        nn.Linear(128, len(network.classes)),
    )


def build_tutorial_cnn(network: Network) -> nn.Module:
    """Build the network of TensorFlow's tutorial on convolutional networks.

    Three convolutions of 32, 64 and 64 channels with 2x2 max-pooling between them, and a dense
    layer of 64 (https://www.tensorflow.org/tutorials/images/cnn; also Chollet, Deep Learning with
    Python, 2017, section 5.1).

    For 28x28x1 and ten classes it has
    320 + 18,496 + 36,928 + (3 * 3 * 64 + 1) * 64 + 650 = 93,322 parameters.

    Raises:
        UserError: A side of the images is shorter than 18 pixels.
    """
    features = [
        *_make_convolution(network.shape[2], 32, nn.MaxPool2d(2)),
        *_make_convolution(32, 64, nn.MaxPool2d(2)),
        *_make_convolution(64, 64),
    ]
    return nn.Sequential(
        *features, *_make_dense(network, features, 64), nn.Linear(64, len(network.classes))
    )


def build_binary_cnn(network: Network) -> nn.Module:
    """Build the network for cats and dogs of Keras' blog, which has one logit for two classes.

    Three convolutions of 32, 32 and 64 channels, each with 2x2 max-pooling, a dense layer of 64,
    and dropout 0.5
    (https://blog.keras.io/building-powerful-image-classification-models-using-very-little-data.html).

    The network returns the logits `[0, z]`, where z is the one logit. Their cross entropy is the
    binary cross entropy of z: class 0 has the probability 1 / (1 + exp(z)), class 1 the rest.

    For 64x64x3 it has
    896 + 9,248 + 18,496 + (6 * 6 * 64 + 1) * 64 + 65 = 176,225 parameters.

    Raises:
        UserError: There are not two classes, or a side of the images is shorter than 22 pixels.
    """
    if len(network.classes) != 2:
        raise UserError(
            f"binary_cnn has one logit, for two classes; the data have {len(network.classes)}: "
            "choose tutorial_cnn or another architecture, which all take any number of classes"
        )
    features = [
        *_make_convolution(network.shape[2], 32, nn.MaxPool2d(2)),
        *_make_convolution(32, 32, nn.MaxPool2d(2)),
        *_make_convolution(32, 64, nn.MaxPool2d(2)),
    ]
    return nn.Sequential(
        *features,
        *_make_dense(network, features, 64),
        nn.Dropout(0.5),
        nn.Linear(64, 1),
        nn.ConstantPad1d((1, 0), 0.0),
    )


def build_simple_cnn(network: Network) -> nn.Module:
    """Build the network of Keras' example "Simple MNIST convnet".

    Two convolutions of 32 and 64 channels, each with 2x2 max-pooling, dropout 0.5, and a linear
    layer (https://keras.io/examples/vision/mnist_convnet).

    For 28x28x1 and ten classes it has
    320 + 18,496 + (5 * 5 * 64 + 1) * 10 = 34,826 parameters.

    Raises:
        UserError: A side of the images is shorter than 10 pixels.
    """
    features = [
        *_make_convolution(network.shape[2], 32, nn.MaxPool2d(2)),
        *_make_convolution(32, 64, nn.MaxPool2d(2)),
    ]
    size = _count_features(network, features)
    head = nn.Linear(size, len(network.classes))
    return nn.Sequential(*features, nn.Flatten(), nn.Dropout(0.5), head)


def build_unpooled_cnn(network: Network) -> nn.Module:
    """Build two convolutions of 64 and 32 channels without pooling, and a linear layer.

    Many first tutorials have it, such as
    https://towardsdatascience.com/building-a-convolutional-neural-network-cnn-in-keras-329fbbadc5f5.

    For 28x28x1 and ten classes it has
    640 + 18,464 + (24 * 24 * 32 + 1) * 10 = 203,434 parameters.

    Raises:
        UserError: A side of the images is shorter than 5 pixels.
    """
    features = [*_make_convolution(network.shape[2], 64), *_make_convolution(64, 32)]
    size = _count_features(network, features)
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(size, len(network.classes)))


def _make_convolution(inputs: int, outputs: int, *pool: nn.Module) -> list[nn.Module]:
    # Max-pooling and ReLU commute exactly. Pooling first leaves ReLU a quarter of the work.
    return [nn.Conv2d(inputs, outputs, 3), *pool, nn.ReLU(inplace=True)]


def _make_dense(network: Network, features: list[nn.Module], outputs: int) -> list[nn.Module]:
    """Return a dense layer with ReLU on the flattened output of `features`."""
    size = _count_features(network, features)
    return [nn.Flatten(), nn.Linear(size, outputs), nn.ReLU(inplace=True)]


def _count_features(network: Network, features: list[nn.Module]) -> int:
    """Return the length of the flattened output of `features`.

    Raises:
        UserError: Nothing is left of images of this size.
    """
    height, width, _ = network.shape
    smallest = next(side for side in itertools.count(1) if _shrink(side, features) > 0)
    if min(height, width) < smallest:
        raise UserError(
            f"{network.architecture} does not take images of {height} x {width} pixels: both sides "
            f"need at least {smallest}; set preprocess.image_size, or choose cnn"
        )
    channels = [layer.out_channels for layer in features if isinstance(layer, nn.Conv2d)]
    return channels[-1] * _shrink(height, features) * _shrink(width, features)


def _shrink(side: int, features: list[nn.Module]) -> int:
    """Return what `features` leave of a side of `side` pixels; 0 or less is nothing."""
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            side -= 2
        elif isinstance(layer, nn.MaxPool2d):
            side //= 2
    return side
