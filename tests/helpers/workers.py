"""What each worker of msrun runs: `FOLDER [COLUMNS]`. It writes there, or prints what `shares` has of columns alone.

What it prints is JSON.
"""

import sys
from pathlib import Path

import mindspore as ms
from mindspore import context
from mindspore.communication import get_group_size, get_rank, init

from helpers import data_parallel, shares, stopping, zero
from parity.cases import networks

if __name__ == "__main__":
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    init()
    rank, count = get_rank(), get_group_size()
    columns = sys.argv[2:] == ["COLUMNS"]
    shares.main(rank, count, columns)
    if columns:
        sys.exit()
    context.set_auto_parallel_context(parallel_mode="data_parallel", gradients_mean=True, device_num=count)
    zero.main(rank, count)
    stopping.main(Path(sys.argv[1]), rank, count)
    networks.BLOCKS = networks.BLOCKS[:1]
    data_parallel.in_mindspore(Path(sys.argv[1]) / "two", rank, count, "model", "jit")
