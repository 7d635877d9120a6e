"""MindSpore implementation of `NFNet`.
Refer to High-Performance Large-Scale Image Recognition Without Normalization.
"""

from src.nfnet import ARCHITECTURES, NFNet

from .helpers import build_model_with_cfg
from .registry import register_model

__all__ = [
    "NFNet",
    "nfnet_f0",
    "nfnet_f1",
    "nfnet_f2",
    "nfnet_f3",
    "nfnet_f4",
    "nfnet_f5",
    "nfnet_f6",
    "nfnet_f7",
]


def _cfg(url="", **kwargs):
    return {"url": url, "num_classes": 1000, "first_conv": "stem.conv1", "classifier": "head.fc", **kwargs}


# The sizes that the paper trains with.
default_cfgs = {
    "nfnet_f0": _cfg(input_size=(3, 192, 192)),
    "nfnet_f1": _cfg(input_size=(3, 224, 224)),
    "nfnet_f2": _cfg(input_size=(3, 256, 256)),
    "nfnet_f3": _cfg(input_size=(3, 320, 320)),
    "nfnet_f4": _cfg(input_size=(3, 384, 384)),
    "nfnet_f5": _cfg(input_size=(3, 416, 416)),
    "nfnet_f6": _cfg(input_size=(3, 448, 448)),
    "nfnet_f7": _cfg(input_size=(3, 480, 480)),
}


def _create_nfnet(name, pretrained, drop_rate=None, drop_path_rate=0.25, approximate=True, **kwargs):
    model_args = dict(dropout=drop_rate, drop_path=drop_path_rate, approximate=approximate, **kwargs)
    return build_model_with_cfg(NFNet, pretrained, default_cfgs[name], architecture=ARCHITECTURES[name], **model_args)


@register_model
def nfnet_f0(pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs) -> NFNet:
    """Get NFNet-F0. Refer to the base class `models.NFNet` for more details."""
    return _create_nfnet("nfnet_f0", pretrained, num_classes=num_classes, in_channels=in_channels, **kwargs)


@register_model
def nfnet_f1(pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs) -> NFNet:
    """Get NFNet-F1. Refer to the base class `models.NFNet` for more details."""
    return _create_nfnet("nfnet_f1", pretrained, num_classes=num_classes, in_channels=in_channels, **kwargs)


@register_model
def nfnet_f2(pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs) -> NFNet:
    """Get NFNet-F2. Refer to the base class `models.NFNet` for more details."""
    return _create_nfnet("nfnet_f2", pretrained, num_classes=num_classes, in_channels=in_channels, **kwargs)


@register_model
def nfnet_f3(pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs) -> NFNet:
    """Get NFNet-F3. Refer to the base class `models.NFNet` for more details."""
    return _create_nfnet("nfnet_f3", pretrained, num_classes=num_classes, in_channels=in_channels, **kwargs)


@register_model
def nfnet_f4(pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs) -> NFNet:
    """Get NFNet-F4. Refer to the base class `models.NFNet` for more details."""
    return _create_nfnet("nfnet_f4", pretrained, num_classes=num_classes, in_channels=in_channels, **kwargs)


@register_model
def nfnet_f5(pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs) -> NFNet:
    """Get NFNet-F5. Refer to the base class `models.NFNet` for more details."""
    return _create_nfnet("nfnet_f5", pretrained, num_classes=num_classes, in_channels=in_channels, **kwargs)


@register_model
def nfnet_f6(pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs) -> NFNet:
    """Get NFNet-F6. Refer to the base class `models.NFNet` for more details."""
    return _create_nfnet("nfnet_f6", pretrained, num_classes=num_classes, in_channels=in_channels, **kwargs)


@register_model
def nfnet_f7(pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs) -> NFNet:
    """Get NFNet-F7. Refer to the base class `models.NFNet` for more details."""
    return _create_nfnet("nfnet_f7", pretrained, num_classes=num_classes, in_channels=in_channels, **kwargs)
