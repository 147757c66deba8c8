"""Host memory of a base model: its weights are pages of its file, which the processes of a machine share."""

import re
import subprocess
import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM

READ = """
import re, sys
from pathlib import Path
import torch
from harness.records.settings import ModelSpec
from harness.sources import models

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024

spec = ModelSpec(name="large", source="path", path=sys.argv[1])
small = ModelSpec(name="small", source="path", path=sys.argv[2])
models.load(small, {"dtype": torch.bfloat16})  # what a first model costs, beside its weights
before = anonymous()
model = models.load(spec, {"dtype": getattr(torch, sys.argv[3])})
sum(parameter.float().abs().max() for parameter in model.parameters())
print(anonymous() - before)
"""


def written(folder, hidden):
    """Write a Llama of zeros in bfloat16 and return the bytes of its weights."""
    config = AutoConfig.for_model(
        "llama", hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=4, vocab_size=2048,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters()) * 2


def test_the_weights_of_a_base_in_its_files_dtype_are_shared_by_processes(tmp_path):
    """Eight ranks of a sharded run hold one copy on the host. Another dtype is a copy, of this process alone."""
    size = written(tmp_path / "large", 1024)
    written(tmp_path / "small", 32)
    assert size > 10**8
    own = {}
    for dtype in ("bfloat16", "float32"):
        command = [sys.executable, "-c", READ, str(tmp_path / "large"), str(tmp_path / "small"), dtype]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        own[dtype] = int(re.fullmatch(r"(-?\d+)", done.stdout.strip()).group(1))
    assert own["bfloat16"] < 0.3 * size
    assert own["float32"] > 1.7 * size
