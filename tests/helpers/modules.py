"""One network in both frameworks, and what compares them."""

import numpy as np
import torch
from mindspore import Parameter, Tensor, mint, nn


class Module(torch.nn.Module):
    """One layer of each kind, and two of one shape."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(20, 8)
        self.line = torch.nn.Conv1d(8, 8, 3, padding=1, bias=False)
        self.conv = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.bn = torch.nn.BatchNorm2d(4)
        self.blocks = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))
        self.norm = torch.nn.LayerNorm(8)
        self.group = torch.nn.GroupNorm(2, 4)
        self.act = torch.nn.PReLU(4)
        self.scale = torch.nn.Parameter(torch.randn(8))

    def forward(self, ids):
        """From (n, 6) integers to (n, 4, 6, 8)."""
        x = self.line(self.embed(ids).transpose(1, 2)).transpose(1, 2)[:, None]
        x = self.act(self.group(self.bn(self.conv(x))))
        return self.norm(self.blocks(x) * self.scale)


class Net(nn.Cell):
    """The same in another order; with `mint.nn` where `m` is that."""

    def __init__(self, m=nn):
        super().__init__()
        own = m is nn
        self.scale = Parameter(Tensor(np.zeros(8, np.float32)), name="scale")
        self.norm = nn.LayerNorm([8], epsilon=1e-5) if own else mint.nn.LayerNorm(8)
        self.blocks = nn.SequentialCell(
            *(
                nn.Dense(8, 8) if own else mint.nn.Linear(8, 8),
                nn.ReLU(),
                nn.Dense(8, 8) if own else mint.nn.Linear(8, 8),
            )
        )
        self.act = m.PReLU(4) if own else mint.nn.PReLU(4)
        self.group = m.GroupNorm(2, 4)
        self.bn = m.BatchNorm2d(4)
        self.conv = nn.Conv2d(1, 4, 3, has_bias=True) if own else mint.nn.Conv2d(1, 4, 3, padding=1)
        self.line = nn.Conv1d(8, 8, 3) if own else mint.nn.Conv1d(8, 8, 3, padding=1, bias=False)
        self.embed = m.Embedding(20, 8)

    def construct(self, ids):
        """From (n, 6) integers to (n, 4, 6, 8)."""
        x = self.line(self.embed(ids).swapaxes(1, 2)).swapaxes(1, 2).expand_dims(1)
        x = self.act(self.group(self.bn(self.conv(x))))
        return self.norm(self.blocks(x) * self.scale)


class Mint(Net):
    """Of the layers of `mint.nn`."""

    def __init__(self):
        super().__init__(mint.nn)


def trained(seed=0):
    """A torch module whose every tensor is its own, also those that start as zeros or ones."""
    torch.manual_seed(seed)
    module = Module()
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) + 0.5 if tensor.dtype.is_floating_point else torch.tensor(7))
    return module.eval()


def assert_equal(got, expected):
    """The same names, dtypes, shapes and bits, however deep; order counts in lists only."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key in expected:
            assert_equal(got[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(got) == len(expected)
        for one, other in zip(got, expected):
            assert_equal(one, other)
    elif isinstance(expected, torch.Tensor):
        assert isinstance(got, torch.Tensor) and got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
    else:
        assert not isinstance(got, torch.Tensor) and got == expected


def weights(cell):
    """A copy of each Parameter."""
    return {param.name: param.asnumpy().copy() for param in cell.get_parameters()}


def spread(module, seed=0):
    """The module, in evaluation, with a number of its own in each place."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.dtype.is_floating_point:
                value.copy_(torch.rand(value.shape) + 0.3)
    return module.eval()
