"""Builds tutti_torch against the PyTorch and the Tutti (by pkg-config) that are installed:

    pip install --no-build-isolation src/compat/torch
"""
import glob
import shlex
import subprocess

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension


def tutti(*what):
    return shlex.split(subprocess.check_output(["pkg-config", *what, "tutti"], text=True))


setup(
    name="tutti_torch",
    version=tutti("--modversion")[0],
    packages=["tutti_torch"],
    ext_modules=[
        CppExtension(
            "tutti_torch._backend",
            sorted(glob.glob("tutti_torch/*.cpp")),
            extra_compile_args=["-g0", "-fvisibility=hidden", *tutti("--cflags")],
            extra_link_args=[
                *tutti("--libs"),
                *("-Wl,-rpath," + flag[2:] for flag in tutti("--libs-only-L")),
            ],
        )
    ],
    cmdclass={"build_ext": BuildExtension.with_options(use_ninja=False)},
)
