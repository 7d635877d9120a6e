"""What is installed works where nothing else of the clone is: with kernels, without a compiler, without the extra."""

import os
import subprocess
import sys

import pytest
from helpers.processes import ROOT, install

STEP = """
import mindspore as ms
import ms_optim
def make(fused):
    return ms_optim.SGD([ms.Parameter(ms.Tensor([1.0, 2.0], ms.float32), name="weight")], lr=0.5, fused=fused)
optimizers = make(None), make(None)
for optimizer in optimizers:
    optimizer((ms.Tensor([1.0, 1.0], ms.float32),))
print(ms_optim.__file__, optimizer.fused, optimizer.parameters[0].asnumpy())
try:
    make(True)
except ValueError as error:
    print(error)
"""
# As where the packages of the extra are not.
PARITY = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))
try:
    import parity.cases
except ImportError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.xdist_group("zoo")
@pytest.mark.parametrize("compiler", [True, False])
def test_a_wheel_works_alone(request, tmp_path, compiler):
    """Unpacked into an empty folder, it takes a step; without kernels it says so once, and `fused=True` why not."""
    site = request.getfixturevalue("installed") if compiler else install(tmp_path, compiler=False)
    environ = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "GLOG_v")}
    assert (site / "ms_optim" / "py.typed").exists()
    done = subprocess.run(
        [sys.executable, "-c", STEP],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environ | {"PYTHONPATH": str(site)},
    )
    first, *rest = done.stdout.splitlines()
    assert first == f"{site / 'ms_optim' / '__init__.py'} {compiler} [0.5 1.5]"
    warnings = done.stderr.count("installed without a C++ compiler")
    if compiler:
        assert not rest and not warnings
    else:
        assert rest == [
            "For 'SGD', 'fused' must be None or False here, because the library was installed without a "
            "C++ compiler, but got True."
        ]
        assert warnings == 1


@pytest.mark.parametrize(
    ("absent", "said"),
    [
        ([], ""),
        (["torch"], ""),
        (["rich", "torch"], "but rich, torch cannot be found: pip install 'ms_optim[parity]'"),
        (["hypothesis"], "but hypothesis cannot be found: pip install 'ms_optim[parity]'"),
    ],
)
def test_parity_says_what_it_needs(absent, said):
    """By name, and what brings it; without torch alone its files can be compared."""
    done = subprocess.run(
        [sys.executable, "-c", PARITY, *absent], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()
    assert done.endswith(said) and bool(done) == bool(said)
    assert (
        done.startswith("For 'parity', the packages hypothesis, jinja2, matplotlib, rich, safetensors, sklearn, torch")
        or not said
    )
