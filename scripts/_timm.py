"""The networks of timm that have the architectures of scripts/nfnet, and their training in PyTorch."""

import sys
from types import ModuleType

import numpy as np
import torch


def networks():
    """Timm's module of normalizer-free networks.

    Raises:
        ImportError: If timm is not installed.
    """
    # torchvision's own registers operators that its build beside a torch for CPUs does not have
    sys.modules.setdefault("torchvision._meta_registrations", ModuleType("torchvision._meta_registrations"))
    from timm.models import nfnet

    return nfnet


def twin(timm, architecture, channels, classes):
    """The network of timm for an architecture, with gains, skip gains and biases that tell: made, most are 0 or 1."""
    attention, deepmind = architecture.attention, architecture.deepmind
    config = timm.NfCfg(
        architecture.depths,
        architecture.widths,
        stem_type={"deep": "deep_quad", "pooled": "7x7_pool"}[architecture.stem],
        stem_chs=architecture.stem_width,
        group_size=architecture.group_size,
        attn_layer=None if attention is None else "se",
        attn_kwargs=None if attention is None else {"rd_ratio": attention},
        bottle_ratio=architecture.ratio,
        num_features=int(architecture.widths[-1] * architecture.features),
        extra_conv=architecture.convolutions == 2,
        gamma_in_act=deepmind,
        same_padding=deepmind,
        skipinit=deepmind,
        act_layer=architecture.activation,
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


def is_decayed(name):
    """Weights alone, no gains and no biases."""
    return name.endswith("weight")


class Training:
    """timm's training of its network: SGD with Nesterov's momentum, its clipping but of the classifier, its average.

    Args:
        network (NormFreeNet): What is trained, from what it has.
        dtype (dtype): In which all is computed.
        weight_decay (float): Of weights; gains and biases have none.
        clipping (float): The largest norm of a gradient relative to its unit's, 0 for plain momentum.
        averaging (float): The decay of the average, which warms up.
        momentum (float): That of SGD.
        label_smoothing (float): That of the loss.
        seed (Union[None, int]): Images of a batch come in another order: the same sums, rounded elsewhere.
    """

    def __init__(self, network, dtype, weight_decay, clipping, averaging, momentum=0.9, label_smoothing=0.0, seed=None):
        from timm.utils import ModelEmaV3

        self.network, self.dtype, self.clipping = network.to(dtype).train(), dtype, clipping
        self.named = dict(network.named_parameters())
        groups = [
            {"params": [param for name, param in self.named.items() if is_decayed(name) == decayed], **decay}
            for decayed, decay in ((True, {"weight_decay": weight_decay}), (False, {"weight_decay": 0.0}))
        ]
        self.optimizer = torch.optim.SGD(groups, momentum=momentum, nesterov=True)
        self.average = ModelEmaV3(network, averaging, use_warmup=True)
        self.loss = torch.nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.rng = None if seed is None else np.random.default_rng(seed)
        self.steps = 0

    def step(self, images, targets, lr):
        """Take a step by a batch, whose targets are classes or shares of them, and give its loss."""
        from timm.utils.agc import adaptive_clip_grad

        if self.rng is not None:
            order = self.rng.permutation(len(images))
            images, targets = images[order], targets[order]
        targets = torch.tensor(targets)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        logits = self.network(torch.tensor(images, dtype=self.dtype))
        loss = self.loss(logits, targets.to(self.dtype) if targets.is_floating_point() else targets.long())
        loss.backward()
        if self.clipping:
            clipped = [param for name, param in self.named.items() if not name.startswith("head.fc")]
            adaptive_clip_grad(clipped, self.clipping)
        self.optimizer.step()
        self.steps += 1
        self.average.update(self.network, self.steps)
        return loss.item()

    def parameters(self, average=False):
        """Give copies of the parameters, or of their averages, in float64."""
        network = self.average.module if average else self.network
        return {name: param.detach().double().numpy().copy() for name, param in network.named_parameters()}

    def logits(self, images, average=False):
        """Give the logits of images, by the parameters or by their averages."""
        network = (self.average.module if average else self.network).eval()
        with torch.no_grad():
            logits = network(torch.tensor(images, dtype=self.dtype)).double().numpy()
        self.network.train()
        return logits


def distance(values, truth):
    """How far all parameters are off, relative to all of them."""
    off = sum(np.square(values[name] - truth[name]).sum() for name in truth)
    return (off / sum(np.square(value).sum() for value in truth.values())) ** 0.5
