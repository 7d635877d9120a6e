"""NFNet, the normalizer-free residual network.

Brock et al. 2021, "High-Performance Large-Scale Image Recognition Without Normalization", and the ResNets of Brock et
al. 2021, "Characterizing signal propagation to close the performance gap in unnormalized ResNets". Parameters are named
as those of `dm_nfnet_f0` to `dm_nfnet_f6`, `nfnet_l0`, `nf_resnet50` and the like in timm 1.0.31.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

# What keeps the variance of a standard normal input at 1; DeepMind's constants, one for both forms of GELU.
GAINS = {"gelu": 1.7015043497085571, "relu": 1.7139588594436646, "silu": 1.7881293296813965}
# Of the residual branch, and of its squeeze-and-excitation.
ALPHA, ATTENTION_GAIN = 0.2, 2.0
STANDARDIZE_EPS = 1e-5


@dataclass(frozen=True)
class Architecture:
    """What tells one normalizer-free network from another.

    Args:
        depths (tuple[int, ...]): The blocks of each stage.
        widths (tuple[int, ...]): The channels of each stage.
        stem_width (int): The channels of the stem, a multiple of 8.
        group_size (Union[None, int]): The channels of a group in the 3x3 convolutions; None for one group of all.
        dropout (float): The rate before the classifier that the paper trains with, in [0, 1).
        activation (str): One of `GAINS`.
        stem (str): One of `STEMS`: "deep", four 3x3 convolutions, or "pooled", a 7x7 convolution and the maxima of 3x3.
        ratio (float): The channels between the convolutions of a block, relative to those of its output.
        convolutions (int): The 3x3 convolutions of a block, 1 or 2.
        attention (Union[None, float]): The channels between those of squeeze-and-excitation, relative to its input;
            None for none of it.
        features (float): The channels that the classifier sees, relative to the last stage; 0 for the last stage
            itself.
        deepmind (bool): As DeepMind wrote it: the activations bring their gain, images are padded as TensorFlow's
            "SAME" does, and each branch ends in a skip gain that begins as zero. Else as timm does: the convolutions
            bring the gain, each side is padded alike, and the last gain of a branch begins as zero.
    """

    depths: tuple
    widths: tuple = (256, 512, 1536, 1536)
    stem_width: int = 128
    group_size: int | None = 128
    dropout: float = 0.0
    activation: str = "gelu"
    stem: str = "deep"
    ratio: float = 0.5
    convolutions: int = 2
    attention: float | None = 0.5
    features: float = 2.0
    deepmind: bool = True


_DROPOUTS = (0.2, 0.3, 0.4, 0.4, 0.5, 0.5, 0.5, 0.5)
_RESNET = partial(
    Architecture,
    widths=(256, 512, 1024, 2048),
    stem_width=64,
    group_size=None,
    activation="relu",
    stem="pooled",
    ratio=0.25,
    convolutions=1,
    features=0,
    deepmind=False,
)
_RESNETS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}

# F0 to F7 of the paper, one that learns from small images on a CPU, and of timm's a lighter one and ResNets.
ARCHITECTURES = {
    f"nfnet_f{i}": Architecture(tuple(depth * (i + 1) for depth in (1, 2, 6, 3)), dropout=rate)
    for i, rate in enumerate(_DROPOUTS)
}
ARCHITECTURES["nfnet_small"] = Architecture((1, 1, 2, 1), (32, 64, 96, 96), 32, 16)
ARCHITECTURES["nfnet_l0"] = Architecture(
    (1, 2, 6, 3), group_size=64, activation="silu", ratio=0.25, attention=0.25, features=1.5, deepmind=False
)
ARCHITECTURES |= {f"nf_resnet{size}": _RESNET(depths, attention=None) for size, depths in _RESNETS.items()}
ARCHITECTURES |= {f"nf_seresnet{size}": _RESNET(depths, attention=1 / 16) for size, depths in _RESNETS.items()}


class Activation(nn.Cell):
    """A function of each number, times a gain.

    Args:
        name (str): One of `GAINS`.
        gain (float): What the result is multiplied by.
        approximate (bool): Take GELU's form with tanh, in which DeepMind trained, and not the exact one, which timm
            has. Default: ``False`` .
    """

    def __init__(self, name, gain, approximate=False):
        super().__init__()
        self.function, self.gain, self.approximate = name, gain, approximate

    def construct(self, x):
        """Activate a tensor of any shape."""
        if self.function == "relu":
            return ops.relu(x) * self.gain
        if self.function == "silu":
            gate = ops.sigmoid(x)
        elif self.approximate:
            # x/2 * (1 + tanh(u)) is x * sigmoid(2u), which backends compute to more digits
            gate = ops.sigmoid(x * (1 + 0.044715 * x * x) * (2 * math.sqrt(2 / math.pi)))
        else:
            gate = 0.5 * (1 + ops.erf(x * math.sqrt(0.5)))
        return x * gate * self.gain


class ScaledStdConv(nn.Cell):
    """A convolution whose weights are standardized for each output channel, then scaled by gain / sqrt(fan-in).

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        kernel_size (int): The side of the kernel.
        stride (int): The stride. Default: ``1`` .
        groups (int): The groups of channels. Default: ``1`` .
        same (bool): The input is padded as TensorFlow's "SAME" does, not alike on each side. Default: ``True`` .
        factor (float): The gain of the activation before it, if it does not bring that itself. Default: ``1.0`` .
        begins (float): What the gain is at first. Default: ``1.0`` .
    """

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, groups=1, *, same=True, factor=1.0, begins=1.0
    ):
        super().__init__()
        shape = (out_channels, in_channels // groups, kernel_size, kernel_size)
        fan_in = shape[1] * kernel_size**2
        self.stride, self.groups, self.scale = stride, groups, factor * fan_in**-0.5
        self.pad_mode, self.padding = ("same", 0) if same else ("pad", kernel_size // 2)
        self.weight = Parameter(initializer(Normal(fan_in**-0.5), shape, ms.float32), name="weight")
        self.gain = Parameter(initializer(begins, (out_channels, 1, 1, 1), ms.float32), name="gain")
        self.bias = Parameter(initializer("zeros", (out_channels,), ms.float32), name="bias")

    def construct(self, x):
        """Convolve images (n, in_channels, height, width)."""
        centred = self.weight - self.weight.mean((1, 2, 3), True)
        deviation = ops.sqrt((centred * centred).mean((1, 2, 3), True) + STANDARDIZE_EPS)
        weight = centred * (self.gain * self.scale / deviation)
        weight, bias = weight.astype(x.dtype), self.bias.astype(x.dtype)
        return ops.conv2d(x, weight, bias, self.stride, self.pad_mode, self.padding, 1, self.groups)


class SqueezeExcite(nn.Cell):
    """A gate for each channel, which the means of all decide together (Hu et al. 2018).

    Args:
        channels (int): Channels of the input.
        ratio (float): How many are between, relative to these; rounded up to a multiple of 8.
    """

    def __init__(self, channels, ratio):
        super().__init__()
        between = math.ceil(channels * ratio / 8) * 8
        self.fc1 = nn.Conv2d(channels, between, 1, pad_mode="valid", has_bias=True)
        self.fc2 = nn.Conv2d(between, channels, 1, pad_mode="valid", has_bias=True)

    def construct(self, x):
        """Give the gates (n, channels, 1, 1) of (n, channels, height, width)."""
        return ops.sigmoid(self.fc2(ops.relu(self.fc1(x.mean((2, 3), True)))))


class DropPath(nn.Cell):
    """Make zeros of samples at a rate while training, and scale those that stay (Huang et al. 2016).

    Args:
        rate (float): In [0, 1).
    """

    def __init__(self, rate):
        super().__init__()
        self.dropout = nn.Dropout(p=rate)

    def construct(self, x):
        """Leave out samples of (n, channels, 1, 1)."""
        return x * self.dropout(ops.ones((x.shape[0], 1, 1, 1), x.dtype))


class Downsample(nn.Cell):
    """The shortcut where a stage begins: means of 2x2 if it strides, then a 1x1 convolution."""

    def __init__(self, in_channels, out_channels, stride, conv):
        super().__init__()
        self.pool = nn.AvgPool2d(2, 2, pad_mode="same") if stride == 2 else nn.Identity()
        self.conv = conv(in_channels, out_channels, 1)

    def construct(self, x):
        """Map (n, in_channels, height, width)."""
        return self.conv(self.pool(x))


class Block(nn.Cell):
    """shortcut + ALPHA * skipinit_gain * branch(activation(x) * beta): a bottleneck with one or two 3x3 convolutions.

    What scales the branch is multiplied before it meets the image, where it is a number for each channel of a sample.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        stride (int): 2 where the image shrinks.
        beta (float): 1 over the deviation that the input is expected to have.
        drop_path (float): The rate at which samples leave out the branch while training, in [0, 1).
        architecture (Architecture): What else it is made of.
        act (Callable): Makes an activation.
        conv (Callable): Makes a convolution.
    """

    def __init__(self, in_channels, out_channels, stride, beta, drop_path, architecture, act, conv):
        super().__init__()
        width, groups = int(out_channels * architecture.ratio), 1
        if architecture.group_size is not None:
            groups = width // architecture.group_size
            width = groups * architecture.group_size
        self.beta = beta
        self.starts = stride != 1 or in_channels != out_channels
        if self.starts:
            self.downsample = Downsample(in_channels, out_channels, stride, conv)
        self.act = act()
        self.conv1 = conv(in_channels, width, 1)
        self.conv2 = conv(width, width, 3, stride, groups)
        self.twice = architecture.convolutions == 2
        if self.twice:
            self.conv2b = conv(width, width, 3, 1, groups)
        self.deepmind = architecture.deepmind
        self.conv3 = conv(width, out_channels, 1, begins=1.0 if self.deepmind else 0.0)
        self.attends, self.scale = architecture.attention is not None, ALPHA
        if self.attends:
            self.attn_last = SqueezeExcite(out_channels, architecture.attention)
            self.scale = ALPHA * ATTENTION_GAIN
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        if self.deepmind:
            self.skipinit_gain = Parameter(Tensor(0.0, ms.float32), name="skipinit_gain")

    def construct(self, x):
        """Map (n, in_channels, height, width)."""
        h = self.act(x) * self.beta
        shortcut = self.downsample(h) if self.starts else x
        h = self.conv2(self.act(self.conv1(h)))
        if self.twice:
            h = self.conv2b(self.act(h))
        h = self.conv3(self.act(h))
        gain = (self.skipinit_gain * self.scale).astype(h.dtype) if self.deepmind else self.scale
        if self.attends:
            return h * (self.drop_path(self.attn_last(h)) * gain) + shortcut
        return self.drop_path(h) * gain + shortcut


class Stem(nn.Cell):
    """Four 3x3 convolutions, the first and the last of which halve the image."""

    def __init__(self, in_channels, width, act, conv):
        super().__init__()
        self.act = act()
        self.conv1 = conv(in_channels, width // 8, 3, 2)
        self.conv2 = conv(width // 8, width // 4, 3)
        self.conv3 = conv(width // 4, width // 2, 3)
        self.conv4 = conv(width // 2, width, 3, 2)

    def construct(self, x):
        """Map images (n, in_channels, height, width)."""
        x = self.conv2(self.act(self.conv1(x)))
        return self.conv4(self.act(self.conv3(self.act(x))))


class PooledStem(nn.Cell):
    """A 7x7 convolution and the maxima of 3x3, each of which halves the image; the first block activates."""

    def __init__(self, in_channels, width, act, conv):
        super().__init__()
        self.conv = conv(in_channels, width, 7, 2)
        self.pool = nn.MaxPool2d(3, 2, pad_mode="pad", padding=1)

    def construct(self, x):
        """Map images (n, in_channels, height, width)."""
        return self.pool(self.conv(x))


STEMS = {"deep": Stem, "pooled": PooledStem}


class Head(nn.Cell):
    """The mean of each channel, dropout, and the classifier.

    Args:
        width (int): Channels of the input.
        num_classes (int): How many logits there are.
        dropout (float): The rate while training, in [0, 1).
    """

    def __init__(self, width, num_classes, dropout):
        super().__init__()
        self.dropout = nn.Dropout(p=dropout)
        self.fc = nn.Dense(width, num_classes, weight_init=Normal(0.01), bias_init="zeros")

    def construct(self, x):
        """Give the logits (n, num_classes) of (n, width, height, width)."""
        return self.fc(self.dropout(x.mean((2, 3))))


class NFNet(nn.Cell):
    """A normalizer-free residual network.

    Args:
        architecture (Architecture): The depths and widths, one of `ARCHITECTURES` or one of your own.
        num_classes (int): How many logits there are. Default: ``1000`` .
        in_channels (int): Channels of the images. Default: ``3`` .
        dropout (Union[None, float]): The rate before the classifier, in [0, 1), None that of the architecture.
            Default: ``None`` .
        drop_path (float): The rate of the last block's branch, in [0, 1); those before it have less, from 0 on. The
            paper has 0.25. Default: ``0.0`` .
        approximate (bool): GELU with tanh, in which DeepMind's weights were trained, and not the exact one, which timm
            computes with them. Default: ``False`` .

    Inputs:
        - **x** (Tensor) - Images of shape (n, in_channels, height, width).

    Outputs:
        Tensor, the logits of shape (n, num_classes).

    Raises:
        ValueError: If a block has no group between its convolutions, a rate is not in [0, 1), `approximate` is asked of
            an activation that is not GELU, or the architecture names an activation or a stem that is unknown.

    Examples:
        >>> net = NFNet(ARCHITECTURES["nfnet_small"], num_classes=10, in_channels=1)
        >>> net(ms.ops.ones((2, 1, 32, 32))).shape
        (2, 10)
    """

    def __init__(self, architecture, num_classes=1000, in_channels=3, dropout=None, drop_path=0.0, approximate=False):
        super().__init__()
        dropout = architecture.dropout if dropout is None else dropout
        for name, rate in (("dropout", dropout), ("drop_path", drop_path)):
            if not 0 <= rate < 1:
                raise ValueError(f"For 'NFNet', '{name}' must be in [0, 1), but got {rate}.")
        for name, known in (("activation", GAINS), ("stem", STEMS)):
            if getattr(architecture, name) not in known:
                raise ValueError(
                    f"For 'NFNet', '{name}' must be one of {sorted(known)}, but got {getattr(architecture, name)!r}."
                )
        if approximate and architecture.activation != "gelu":
            raise ValueError(
                f"For 'NFNet', 'approximate' must be False where the activation is {architecture.activation!r}, but "
                "got True."
            )
        group = architecture.group_size or 1
        if min(architecture.widths) * architecture.ratio < group:
            raise ValueError(
                f"For 'NFNet', 'widths' must be at least {1 / architecture.ratio:g} times the 'group_size' {group}, "
                f"but got {architecture.widths}."
            )
        gain, deepmind = GAINS[architecture.activation], architecture.deepmind
        act = partial(Activation, architecture.activation, gain if deepmind else 1.0, approximate)
        conv = partial(ScaledStdConv, same=deepmind, factor=1.0 if deepmind else gain)
        self.stem = STEMS[architecture.stem](in_channels, architecture.stem_width, act, conv)
        rates = iter(np.linspace(0, drop_path, sum(architecture.depths)).tolist())
        width, variance, stages = architecture.stem_width, 1.0, []
        for place, (depth, out) in enumerate(zip(architecture.depths, architecture.widths)):
            blocks = []
            for i in range(depth):
                stride = 2 if place and not i else 1
                blocks.append(Block(width, out, stride, variance**-0.5, next(rates), architecture, act, conv))
                # The first block of a stage takes its shortcut from what was scaled.
                variance = (variance if i else 1.0) + ALPHA**2
                width = out
            stages.append(nn.SequentialCell(blocks))
        self.stages = nn.SequentialCell(stages)
        features = int(width * architecture.features) or width
        self.final_conv = conv(width, features, 1) if architecture.features else nn.Identity()
        self.act = act()
        self.head = Head(features, num_classes, dropout)

    def no_weight_decay(self):
        """Give the names of the gains, which do not decay, as biases do not."""
        return {param.name for param in self.get_parameters() if param.name.endswith("gain")}

    def forward_features(self, x):
        """Give what the classifier sees of images, (n, channels, height / 32, width / 32)."""
        return self.act(self.final_conv(self.stages(self.stem(x))))

    def forward_head(self, x):
        """Give the logits of features."""
        return self.head(x)

    def construct(self, x):
        """Give the logits of images."""
        return self.forward_head(self.forward_features(x))
