"""NFNet, the normalizer-free residual network.

Brock et al. 2021, "High-Performance Large-Scale Image Recognition Without Normalization". Parameters are named as those
of `dm_nfnet_f0` to `dm_nfnet_f6` in timm 1.0.31.
"""

import math
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

# What keeps the variance of a standard normal input at 1; DeepMind's constant for both forms of GELU.
GELU_GAIN = 1.7015043497085571
# Of the residual branch, and of its squeeze-and-excitation.
ALPHA, ATTENTION_GAIN = 0.2, 2.0
STANDARDIZE_EPS = 1e-5


@dataclass(frozen=True)
class Architecture:
    """What tells one NFNet from another.

    Args:
        depths (tuple[int, ...]): The blocks of each stage.
        widths (tuple[int, ...]): The channels of each stage.
        stem_width (int): The channels of the stem, a multiple of 8.
        group_size (int): The channels of a group in the 3x3 convolutions.
        dropout (float): The rate before the classifier that the paper trains with, in [0, 1).
    """

    depths: tuple
    widths: tuple = (256, 512, 1536, 1536)
    stem_width: int = 128
    group_size: int = 128
    dropout: float = 0.0


_DROPOUTS = (0.2, 0.3, 0.4, 0.4, 0.5, 0.5, 0.5, 0.5)

# F0 to F7 of the paper, and one that learns from small images on a CPU.
ARCHITECTURES = {
    f"nfnet_f{i}": Architecture(tuple(depth * (i + 1) for depth in (1, 2, 6, 3)), dropout=rate)
    for i, rate in enumerate(_DROPOUTS)
}
ARCHITECTURES["nfnet_small"] = Architecture((1, 1, 2, 1), (32, 64, 96, 96), 32, 16)


class ScaledGELU(nn.Cell):
    """GELU times the gain that keeps the variance.

    Args:
        approximate (bool): Take the form with tanh, in which DeepMind trained, and not the exact one, which timm has.
    """

    def __init__(self, approximate=False):
        super().__init__()
        self.approximate = approximate

    def construct(self, x):
        """Activate a tensor of any shape."""
        if self.approximate:
            # x/2 * (1 + tanh(u)) is x * sigmoid(2u), which backends compute to more digits
            gate = ops.sigmoid(x * (1 + 0.044715 * x * x) * (2 * math.sqrt(2 / math.pi)))
        else:
            gate = 0.5 * (1 + ops.erf(x * math.sqrt(0.5)))
        return x * gate * GELU_GAIN


class ScaledStdConv(nn.Cell):
    """A convolution whose weights are standardized for each output channel, then scaled by gain / sqrt(fan-in).

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        kernel_size (int): The side of the kernel.
        stride (int): The stride; the input is padded as TensorFlow's "SAME" does. Default: ``1`` .
        groups (int): The groups of channels. Default: ``1`` .
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, groups=1):
        super().__init__()
        shape = (out_channels, in_channels // groups, kernel_size, kernel_size)
        fan_in = shape[1] * kernel_size**2
        self.stride, self.groups, self.scale = stride, groups, fan_in**-0.5
        self.weight = Parameter(initializer(Normal(fan_in**-0.5), shape, ms.float32), name="weight")
        self.gain = Parameter(initializer("ones", (out_channels, 1, 1, 1), ms.float32), name="gain")
        self.bias = Parameter(initializer("zeros", (out_channels,), ms.float32), name="bias")

    def construct(self, x):
        """Convolve images (n, in_channels, height, width)."""
        centred = self.weight - self.weight.mean((1, 2, 3), True)
        deviation = ops.sqrt((centred * centred).mean((1, 2, 3), True) + STANDARDIZE_EPS)
        weight = centred * (self.gain * self.scale / deviation)
        return ops.conv2d(x, weight.astype(x.dtype), self.bias.astype(x.dtype), self.stride, "same", 0, 1, self.groups)


class SqueezeExcite(nn.Cell):
    """A gate for each channel, which the means of all decide together (Hu et al. 2018).

    Args:
        channels (int): Channels of the input; half as many are between.
    """

    def __init__(self, channels):
        super().__init__()
        between = math.ceil(channels * 0.5 / 8) * 8
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

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.pool = nn.AvgPool2d(2, 2, pad_mode="same") if stride == 2 else nn.Identity()
        self.conv = ScaledStdConv(in_channels, out_channels, 1)

    def construct(self, x):
        """Map (n, in_channels, height, width)."""
        return self.conv(self.pool(x))


class Block(nn.Cell):
    """shortcut + ALPHA * skipinit_gain * branch(activation(x) * beta): a bottleneck with two 3x3 convolutions.

    What scales the branch is multiplied before it meets the image, where it is a number for each channel of a sample.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        stride (int): 2 where the image shrinks.
        beta (float): 1 over the deviation that the input is expected to have.
        group_size (int): The channels of a group in the 3x3 convolutions.
        drop_path (float): The rate at which samples leave out the branch while training, in [0, 1).
        approximate (bool): GELU with tanh.
    """

    def __init__(self, in_channels, out_channels, stride, beta, group_size, drop_path, approximate):
        super().__init__()
        groups = out_channels // 2 // group_size
        width = groups * group_size
        self.beta = beta
        self.starts = stride != 1 or in_channels != out_channels
        if self.starts:
            self.downsample = Downsample(in_channels, out_channels, stride)
        self.act = ScaledGELU(approximate)
        self.conv1 = ScaledStdConv(in_channels, width, 1)
        self.conv2 = ScaledStdConv(width, width, 3, stride, groups)
        self.conv2b = ScaledStdConv(width, width, 3, 1, groups)
        self.conv3 = ScaledStdConv(width, out_channels, 1)
        self.attn_last = SqueezeExcite(out_channels)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.skipinit_gain = Parameter(Tensor(0.0, ms.float32), name="skipinit_gain")

    def construct(self, x):
        """Map (n, in_channels, height, width)."""
        h = self.act(x) * self.beta
        shortcut = self.downsample(h) if self.starts else x
        h = self.conv2(self.act(self.conv1(h)))
        h = self.conv3(self.act(self.conv2b(self.act(h))))
        gain = (self.skipinit_gain * (ALPHA * ATTENTION_GAIN)).astype(h.dtype)
        return h * (self.drop_path(self.attn_last(h)) * gain) + shortcut


class Stem(nn.Cell):
    """Four 3x3 convolutions, the first and the last of which halve the image."""

    def __init__(self, in_channels, width, approximate):
        super().__init__()
        self.act = ScaledGELU(approximate)
        self.conv1 = ScaledStdConv(in_channels, width // 8, 3, 2)
        self.conv2 = ScaledStdConv(width // 8, width // 4, 3)
        self.conv3 = ScaledStdConv(width // 4, width // 2, 3)
        self.conv4 = ScaledStdConv(width // 2, width, 3, 2)

    def construct(self, x):
        """Map images (n, in_channels, height, width)."""
        x = self.conv2(self.act(self.conv1(x)))
        return self.conv4(self.act(self.conv3(self.act(x))))


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
        ValueError: If a stage is narrower than two groups, or a rate is not in [0, 1).

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
        if min(architecture.widths) < 2 * architecture.group_size:
            raise ValueError(
                f"For 'NFNet', 'widths' must be at least twice the 'group_size' {architecture.group_size}, but got "
                f"{architecture.widths}."
            )
        self.stem = Stem(in_channels, architecture.stem_width, approximate)
        rates = iter(np.linspace(0, drop_path, sum(architecture.depths)).tolist())
        width, variance, stages = architecture.stem_width, 1.0, []
        for place, (depth, out) in enumerate(zip(architecture.depths, architecture.widths)):
            blocks = []
            for i in range(depth):
                stride = 2 if place and not i else 1
                block = Block(width, out, stride, variance**-0.5, architecture.group_size, next(rates), approximate)
                blocks.append(block)
                # The first block of a stage takes its shortcut from what was scaled.
                variance = (variance if i else 1.0) + ALPHA**2
                width = out
            stages.append(nn.SequentialCell(blocks))
        self.stages = nn.SequentialCell(stages)
        self.final_conv = ScaledStdConv(width, 2 * width, 1)
        self.act = ScaledGELU(approximate)
        self.head = Head(2 * width, num_classes, dropout)

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
