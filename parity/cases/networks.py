"""Two small networks for scikit-learn's handwritten digits, each written once for torch and MindSpore tensors alike.

A network is a function of its weights, a batch of images and `ops`, which is `torch` or `mindspore.ops`: what is not a
tensor method is spelled alike in both. So are the names, shapes and order of the weights, which are torch's, and the
initial values, which are NumPy's.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SIDE, CLASSES, HELD_OUT = 8, 10, 360

# The residual branch is scaled by ALPHA, the input of a block by 1 / its expected deviation (NF-ResNet, Brock et al.
# 2021), and GELU by the factor that keeps unit variance.
ALPHA, GELU_GAIN, STANDARDIZE_EPS = 0.2, 1.7015043497085571, 1e-4
STEM = 16
# Name, input and output width, stride and 1 / expected deviation of the input; a strided block starts afresh.
BLOCKS = (
    ("blocks.0", 16, 16, 1, 1.0),
    ("blocks.1", 16, 32, 2, (1 + ALPHA**2) ** -0.5),
    ("blocks.2", 32, 32, 1, (1 + ALPHA**2) ** -0.5),
)
LAYERS, WIDTH, HEADS, HIDDEN, NORM_EPS = ("layers.0", "layers.1"), 48, 3, 96, 1e-5


class Model(NamedTuple):
    """A network and the function that draws its weights."""

    forward: Callable
    draw: Callable[[np.random.Generator], dict[str, np.ndarray]]


class Run(NamedTuple):
    """What a training run comes to."""

    weights: dict[str, np.ndarray]
    losses: list[float]
    accuracy: float


@functools.cache
def digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The training and the held-out images (n, 1, 8, 8), float32 in [-1, 1], each with its labels (n,), int32."""
    from sklearn.datasets import load_digits  # which takes as long as half of MindSpore

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = (images[order].reshape(-1, 1, SIDE, SIDE) / 8 - 1).astype(np.float32)
    y = labels[order].astype(np.int32)
    return (x[HELD_OUT:], y[HELD_OUT:]), (x[:HELD_OUT], y[:HELD_OUT])


def batches(steps: int, batch_size: int = 64, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """The batches of a run: the training images in a new order each epoch, whose remainder is dropped."""
    (x, y), _ = digits()
    rng, per_epoch = np.random.default_rng(seed), len(x) // batch_size
    orders = [rng.permutation(len(x))[: per_epoch * batch_size] for _ in range(steps // per_epoch + 1)]
    chosen = np.concatenate(orders).reshape(-1, batch_size)[:steps]
    return [(x[index], y[index]) for index in chosen]


def accuracy(logits: np.ndarray) -> float:
    """The share of the held-out images that their logits classify correctly."""
    _, (_, y) = digits()
    return float((logits.argmax(1) == y).mean())


def initial_weights(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """The initial weights of a network, float32, by name and in order."""
    return {key: np.asarray(value, np.float32) for key, value in MODELS[name].draw(np.random.default_rng(seed)).items()}


def linear(w, name, x):
    """Map the last axis."""
    return x @ w[f"{name}.weight"].mT + w[f"{name}.bias"]


def gelu(x, ops):
    """Compute the exact GELU; not all backends have it as one operator."""
    return x * 0.5 * (1 + ops.erf(x * 0.5**0.5))


def scaled_conv(w, name, x, stride, ops):
    """Convolve with weights standardised per output unit, times a gain, over the root of the fan-in."""
    padding = "valid" if stride > 1 else "same"
    weight = w[f"{name}.weight"]
    centred = weight - weight.mean((1, 2, 3), True)
    norm = ((centred * centred).sum((1, 2, 3), True) + STANDARDIZE_EPS).sqrt()
    return ops.conv2d(x, centred / norm * w[f"{name}.gain"], w[f"{name}.bias"], stride, padding)


def scaled_gelu(x, ops):
    """Keep the variance of a standard normal input."""
    return gelu(x, ops) * GELU_GAIN


def nfnet(w, x, ops):
    """Normalizer-free residual network: x + alpha * gain * branch(activation(x) / deviation)."""
    x = scaled_conv(w, "stem", x, 2, ops)
    for name, _, _, stride, scale in BLOCKS:
        h = scaled_gelu(x, ops) * scale
        if stride > 1:
            size = h.shape[2] // stride
            pooled = h.reshape(-1, h.shape[1], size, stride, size, stride).mean((3, 5))
            x = scaled_conv(w, f"{name}.shortcut", pooled, 1, ops)
        h = scaled_conv(w, f"{name}.conv1", h, stride, ops)
        h = scaled_conv(w, f"{name}.conv2", scaled_gelu(h, ops), 1, ops)
        x = x + h * (ALPHA * w[f"{name}.skip_gain"])
    return linear(w, "head", scaled_gelu(x, ops).mean((2, 3)))


def draw_nfnet(rng):
    """A skip gain is not 0, as SkipInit has it, lest the first gradients of its branch be."""

    def conv(name, width_in, width, kernel):
        fan_in = width_in * kernel * kernel
        return {
            f"{name}.weight": rng.normal(0, fan_in**-0.5, (width, width_in, kernel, kernel)),
            f"{name}.gain": np.ones((width, 1, 1, 1)),
            f"{name}.bias": np.zeros(width),
        }

    weights = conv("stem", 1, STEM, 2)
    for name, width_in, width, stride, _ in BLOCKS:
        if stride > 1:
            weights |= conv(f"{name}.shortcut", width_in, width, 1)
        weights |= conv(f"{name}.conv1", width_in, width, stride if stride > 1 else 3)
        weights |= conv(f"{name}.conv2", width, width, 3)
        weights[f"{name}.skip_gain"] = 0.5
    return weights | _draw_linear(rng, "head", width, CLASSES)


def layer_norm(w, name, x):
    """Normalise the last axis by its mean and biased variance."""
    centred = x - x.mean(-1, True)
    deviation = ((centred * centred).mean(-1, True) + NORM_EPS).sqrt()
    return centred / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(w, name, x, ops):
    """Attend to all tokens with each head."""
    qkv = (x @ w[f"{name}.in_proj_weight"].mT).reshape(-1, SIDE, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
    scores = qkv[0] @ qkv[1].mT * (WIDTH // HEADS) ** -0.5
    heads = ops.softmax(scores, -1) @ qkv[2]
    return linear(w, f"{name}.out_proj", heads.permute(0, 2, 1, 3).reshape(-1, SIDE, WIDTH))


def transformer(w, x, ops):
    """Pre-norm encoder, whose tokens are the rows of the image."""
    x = linear(w, "embed", x.reshape(-1, SIDE, SIDE)) + w["position"]
    for name in LAYERS:
        x = x + attention(w, f"{name}.self_attn", layer_norm(w, f"{name}.norm1", x), ops)
        h = gelu(linear(w, f"{name}.linear1", layer_norm(w, f"{name}.norm2", x)), ops)
        x = x + linear(w, f"{name}.linear2", h)
    return linear(w, "head", layer_norm(w, "norm", x).mean(1))


def draw_transformer(rng):
    """The names and the order are those of `torch.nn.TransformerEncoderLayer`."""

    def norm(name):
        return {f"{name}.weight": np.ones(WIDTH), f"{name}.bias": np.zeros(WIDTH)}

    weights = _draw_linear(rng, "embed", SIDE, WIDTH) | {"position": rng.normal(0, 0.1, (SIDE, WIDTH))}
    for name in LAYERS:
        weights[f"{name}.self_attn.in_proj_weight"] = rng.normal(0, WIDTH**-0.5, (3 * WIDTH, WIDTH))
        weights |= _draw_linear(rng, f"{name}.self_attn.out_proj", WIDTH, WIDTH)
        weights |= _draw_linear(rng, f"{name}.linear1", WIDTH, HIDDEN)
        weights |= _draw_linear(rng, f"{name}.linear2", HIDDEN, WIDTH)
        weights |= norm(f"{name}.norm1") | norm(f"{name}.norm2")
    return weights | norm("norm") | _draw_linear(rng, "head", WIDTH, CLASSES)


def _draw_linear(rng, name, width_in, width):
    return {f"{name}.weight": rng.normal(0, width_in**-0.5, (width, width_in)), f"{name}.bias": np.zeros(width)}


MODELS = {"nfnet": Model(nfnet, draw_nfnet), "transformer": Model(transformer, draw_transformer)}
