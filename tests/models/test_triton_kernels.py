"""The Triton kernels compute what PyTorch's operators compute; Triton's interpreter runs them without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="PyTorch comes without Triton here")
SCRIPT = """
import torch
from minigpt4.models import kernels
assert kernels._agree(torch.device("cpu"))

from minigpt4.models import triton_kernels
generator = torch.Generator().manual_seed(1)
for dtype in (torch.float32, torch.float16):
    wide = torch.randn(6, 3 * 32, generator=generator).to(dtype)
    heads = wide.unflatten(1, (3, 32))[:, :2]
    angles = torch.randn(6, 32, generator=generator)
    cos, sin = angles.cos().to(dtype)[:, :16], angles.sin().to(dtype)[:, :16]
    wanted = torch.empty_like(heads)
    kernels.rotate_by_operators(heads, wanted, cos, sin, back=True)
    before = wide.clone()
    triton_kernels.rotate(heads, heads, cos, sin, back=True)
    torch.testing.assert_close(heads, wanted, rtol=2e-3, atol=2e-3)
    assert torch.equal(wide[:, 64:], before[:, 64:])  # the values of the row are not touched
    gate, up = torch.randn(3, 2500, generator=generator).to(dtype).chunk(2, 1)
    found = triton_kernels.gated_silu(gate, up)
    torch.testing.assert_close(found.float(), torch.nn.functional.silu(gate.float()) * up.float(), rtol=2e-3, atol=2e-3)
    rows = torch.randn(4, 300, generator=generator).to(dtype)
    rows[2] = 0
    options = {"dtype": dtype, "largest": 448.0, "smallest": 1e-30}  # the interpreter rounds some to a wrong float8
    for given in (rows[:, 20:290], rows[:, :64].T):
        values, scales = triton_kernels.quantise_rows(given, **options)
        wanted = given.float().abs().amax(1, keepdim=True).clamp(min=1e-30) / 448
        torch.testing.assert_close(scales, wanted)
        torch.testing.assert_close(values.float(), given.float() / wanted, rtol=2e-3, atol=1e-4)
        assert values.is_contiguous() and values.abs().max() <= 448.5
print("equal")
"""


def test_the_kernels_agree_with_the_operators():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["equal"], done.stderr
