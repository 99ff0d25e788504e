"""Device, precision and memory are chosen for the machine."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import machine
from config import UserError

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


def test_auto_takes_cuda_then_mps_then_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert machine.choose_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.choose_device("auto").type == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert machine.choose_device("auto").type == "cpu"
    with pytest.raises(UserError, match="--device auto"):
        machine.choose_device("cuda")


def test_precision_is_chosen_for_the_device_with_a_reason(monkeypatch):
    for has_bf16, name in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has_bf16: has)
        assert machine.choose_precision("auto", torch.device("cuda"))[0] == name
    assert machine.choose_precision("fp32", CPU) == ("fp32", "as set")
    speeds = {torch.float32: 100.0, torch.bfloat16: 400.0}
    monkeypatch.setattr(machine, "matrix_gflops", lambda dtype: speeds[dtype])
    assert machine.choose_precision("auto", CPU)[0] == "bf16"
    assert "400" in machine.choose_precision("auto", CPU)[1]
    speeds[torch.bfloat16] = 30.0
    assert machine.choose_precision("auto", CPU)[0] == "fp32"


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked for on Linux")
def test_large_pages_are_asked_for_before_the_first_tensor():
    code = "import train, torch; print(torch.ones(2**24).data_ptr() % 4096)"  # PyTorch then aligns to pages
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
