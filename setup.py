"""The metadata of ms_optim and of parity, the suite that compares it with PyTorch."""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

KERNELS = Path("ms_optim", "kernels")
source = Path(__file__).with_name("ms_optim").joinpath("__init__.py").read_text(encoding="utf-8")

setup(
    name="ms_optim",
    version=re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)[1],
    description="The optimizers of torch.optim, and those of NFNet, for MindSpore",
    license="Apache-2.0",
    packages=find_packages(include=("ms_optim*", "parity*")),
    package_data={"ms_optim": ["py.typed"], "parity": ["report/audit.json", "report/page.html"]},
    # No Python module but a library for MindSpore to load; without a compiler the package does without it.
    ext_modules=[
        Extension(
            "ms_optim._kernels",
            [str(KERNELS / "kernels.cpp")],
            depends=sorted(map(str, KERNELS.glob("*.h"))),
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-ffp-contract=off",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-fvisibility=hidden",
                "-pthread",
            ],
            extra_link_args=["-pthread"],
            optional=True,
        )
    ],
    python_requires=">=3.10,<3.13",
    install_requires=["mindspore>=2.8,<2.11", "numpy<2"],
    extras_require={
        "parity": ["hypothesis", "jinja2", "matplotlib", "rich", "safetensors", "scikit-learn", "torch>=2.6,<2.14"],
        "test": ["expecttest", "mindcv==0.3.0", "mypy", "pytest", "pytest-xdist", "ruff"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
