"""Why checkpoints are safetensors files with a checksum and not torch's own: damage has to be noticed."""

import pytest
import torch

from harness.train import tensors


@pytest.mark.parametrize("mmap", [False, True])
def test_a_flipped_bit_is_noticed_here_and_not_by_torchs_reader(tmp_path, mmap):
    value = torch.arange(300, dtype=torch.float32)
    torch.save(value, tmp_path / "torch.pt")
    tensors.write(tmp_path / "ours.safetensors", value, {})
    for file in tmp_path.iterdir():
        content = bytearray(file.read_bytes())
        content[content.index(value.numpy().tobytes()) + 401] ^= 0x10
        file.write_bytes(content)
    read = torch.load(tmp_path / "torch.pt", weights_only=True, mmap=mmap)
    assert read.shape == value.shape and not torch.equal(read, value), "torch checks no sum: it might have been used"
    with pytest.raises(ValueError, match="damaged, its checksum"):
        tensors.read(tmp_path / "ours.safetensors")
