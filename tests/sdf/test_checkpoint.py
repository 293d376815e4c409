"""Checkpoints of surfaces."""

from pathlib import Path

import pytest
import torch
from fixtures.training import TINY, sphere_trainer

from pmni.errors import InputError
from pmni.sdf.checkpoint import load_surface, save_surface
from pmni.sdf.network import NeuralSDF


def test_a_checkpoint_is_the_same_surface_and_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    trainer = sphere_trainer(TINY)
    trainer.warm_start()
    path = tmp_path / "iter_00000001.safetensors"
    save_surface(path, trainer.network, TINY.field, 1)
    x = torch.rand(20, 3)
    loaded = load_surface(path, torch.device("cpu"))
    assert isinstance(loaded, NeuralSDF)
    assert loaded.active == trainer.network.active
    assert torch.equal(loaded(x), trainer.network(x))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"iter_00000001\.safetensors: corrupted"):
        load_surface(path, torch.device("cpu"))
    path.with_name(path.name + ".sha256").unlink()
    with pytest.raises(InputError, match=r"checksum .* is missing"):
        load_surface(path, torch.device("cpu"))
