"""What the tests share."""

import gc

import pytest
import torch

from parity.mindspore_side import MODES, set_mode

# MindSpore collects garbage whenever it compiles; what is loaded by now need not be looked through each time.
gc.freeze()
# The tests run in as many processes as there are cores.
torch.set_num_threads(1)


@pytest.fixture(params=MODES)
def mode(request):
    """Run the test in both modes, with the strict syntax that every backend compiles."""
    set_mode(request.param)
    return request.param
