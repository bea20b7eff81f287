"""The one place torch is imported from: denormals are flushed in every thread that computes, torchvision imports."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

PROBE = """
import threading
from apibench._torch import torch
def flushed():
    return bool((torch.full((1 << 20,), 1e-39) * 0.5 == 0).all())
torch.randn(512, 512) @ torch.randn(512, 512)
torch.nn.functional.conv2d(torch.randn(2, 8, 64, 64), torch.randn(8, 8, 3, 3))
found = [flushed()]
thread = threading.Thread(target=lambda: found.append(flushed()))
thread.start(); thread.join()
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(3) as pool:
    found += pool.map(lambda _: flushed(), range(3))
torch.set_num_threads(2)
found.append(flushed())
print(found)
"""


def test_denormals_are_flushed_in_every_thread() -> None:
    out = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True).stdout
    assert eval(out) == [True] * 6


def test_without_the_module_denormals_are_not_flushed() -> None:
    """The probe can fail: plain torch does not flush."""
    plain = PROBE.replace("from apibench._torch import torch", "import torch")
    out = subprocess.run([sys.executable, "-c", plain], capture_output=True, text=True, check=True).stdout
    assert False in eval(out)


def test_torchvision_and_timm_import() -> None:
    from apibench._torch import torch

    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: __import__("timm")).result()
    import torchvision.transforms.functional as F

    assert F.gaussian_blur(torch.rand(1, 3, 8, 8), [3, 3]).shape == (1, 3, 8, 8)


def test_help_imports_neither_torch_nor_an_sdk() -> None:
    code = (
        "import sys\nfrom apibench.cli import cli; from apibench.terminal import run_command\n"
        "for words in (['--help'], ['query', '--help'], ['run', '--help'], ['emulate', '--help'], ['report', '--help']):\n"
        "    assert run_command(cli, words) == 0, words\n"
        "heavy = {'torch', 'boto3', 'botocore', 'timm', 'pandas', 'numpy'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "HEAVY []" in out
