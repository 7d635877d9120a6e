"""What the tests share."""

import gc

import pytest
import torch

from ms_optim import _fused
from parity.mindspore_side import MODES, set_mode

# MindSpore collects garbage whenever it compiles; what is loaded by now need not be looked through each time.
gc.freeze()
# The tests run in as many processes as there are cores.
torch.set_num_threads(1)


@pytest.fixture(params=[*MODES, "composed"])
def mode(request, monkeypatch):
    """Run the test in both modes, and in GRAPH without native kernels, in the syntax that all backends compile.

    PYNATIVE without kernels compiles what GRAPH does; the parity suite compares it too.
    """
    if request.param == "composed":
        monkeypatch.setattr(_fused, "library", lambda: None)
        set_mode("graph")
    else:
        set_mode(request.param)
    return request.param
