import sys

sys.path.append(".")

import mindspore as ms
import numpy as np
import pytest
from mindcv.loss import create_loss
from mindcv.models import create_model, list_models, nfnet
from mindcv.optim import create_optimizer
from mindcv.utils import create_trainer
from mindspore import Tensor, nn, ops

SMALL = nfnet.Architecture((1,), (32,), 16, 16)
# without a block, which takes longer to compile than to train
SMALLEST = nfnet.Architecture((0,), (32,), 16, 16)


def test_all_are_registered():
    assert list_models(module="nfnet") and set(list_models(module="nfnet")) == {f"nfnet_f{i}" for i in range(8)}


def test_forward():
    ms.set_context(mode=ms.GRAPH_MODE)
    network = nfnet.NFNet(SMALL, num_classes=10).set_train(False)
    features = network.forward_features(ops.ones((1, 3, 64, 64)))
    assert features.shape == (1, 64, 16, 16)
    assert network.forward_head(features).shape == (1, 10)


def test_arguments_of_the_trainer_are_the_networks():
    network = create_model("nfnet_f0", num_classes=7, in_channels=1, drop_rate=0.4, drop_path_rate=0.0)
    assert network.head.dropout.p == 0.4
    assert network.stem.conv1.weight.shape[1] == 1 and network.head.fc.weight.shape[0] == 7


def test_gains_and_biases_do_not_decay_and_gradients_are_scaled_back():
    pytest.importorskip("ms_optim")
    network = nfnet.NFNet(SMALL, num_classes=10, in_channels=1)
    optimizer = create_optimizer(
        network,
        "momentum_agc",
        lr=0.1,
        weight_decay=2e-5,
        weight_decay_filter="norm_and_bias",
        loss_scale=512.0,
        agc_exempt=["head.fc.*"],
    )
    assert optimizer.loss_scale == 512.0
    decays = {param.name: group["weight_decay"] for group in optimizer.param_groups for param in group["params"]}
    for name, decay in decays.items():
        assert decay == (0.0 if name.endswith(("gain", "bias")) else 2e-5), name
    clipping = dict(zip([param.name for param in optimizer.parameters], optimizer.group_clipping_tuple))
    assert {name for name, value in clipping.items() if value != 0.01} == {"head.fc.weight", "head.fc.bias"}


@pytest.mark.parametrize("ema", [True, False])
def test_trainer(ema, loss_scale=1024.0):
    pytest.importorskip("ms_optim")
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(0)
    rng = np.random.default_rng(0)
    labels = np.arange(32, dtype=np.int32) % 4
    images = rng.normal(labels[:, None, None, None] - 1.5, 0.1, (32, 1, 16, 16)).astype(np.float32)
    data = ms.dataset.NumpySlicesDataset((images, labels), ["image", "label"], shuffle=False).batch(16)
    network = nfnet.NFNet(SMALLEST, num_classes=4, in_channels=1)
    loss = create_loss("CE")
    before = float(loss(network(Tensor(images)), Tensor(labels)))
    optimizer = create_optimizer(
        network,
        "momentum_agc",
        lr=[0.1] * 40,
        weight_decay=2e-5,
        nesterov=True,
        weight_decay_filter="norm_and_bias",
        # as train.py decides which of the two scales the gradients back
        loss_scale=1.0 if ema else loss_scale,
        agc_exempt=["head.fc.*"],
    )
    trainer = create_trainer(
        network,
        loss,
        optimizer,
        metrics={"accuracy": nn.Accuracy()},
        amp_level="O0",
        amp_cast_list=None,
        loss_scale_type="fixed",
        loss_scale=loss_scale,
        ema=ema,
    )
    trainer.train(20, data, dataset_sink_mode=False)
    assert float(loss(network(Tensor(images)), Tensor(labels))) < 0.5 * before


def test_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ms_optim", None)
    with pytest.raises(ImportError, match="ms_optim"):
        create_optimizer(nn.Dense(2, 2).trainable_params(), "momentum_agc")
