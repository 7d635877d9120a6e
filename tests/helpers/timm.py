"""The networks of timm that have the architectures of scripts/nfnet."""

from dataclasses import replace

import numpy as np
import torch


def twin(timm, architecture, channels, classes):
    """The network of timm for an architecture, with gains, skip gains and biases that tell: made, most are 0 or 1."""
    config = replace(
        timm.model_cfgs["dm_nfnet_f0"],
        depths=architecture.depths,
        channels=architecture.widths,
        stem_chs=architecture.stem_width,
        group_size=architecture.group_size,
        num_features=2 * architecture.widths[-1],
    )
    torch.manual_seed(0)
    network, rng = timm.NormFreeNet(config, num_classes=classes, in_chans=channels).eval(), np.random.default_rng(0)
    with torch.no_grad():
        for name, param in network.named_parameters():
            if name.endswith("gain"):
                param.copy_(torch.tensor(rng.normal(0.5 if "skip" in name else 1, 0.2, param.shape)))
            elif name.endswith("bias"):
                param.copy_(torch.tensor(rng.normal(0, 0.1, param.shape)))
    return network
