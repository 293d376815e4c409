"""Checkpoints of surfaces."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from fixtures.training import CPU, TINY, sphere_trainer

from pmni.config.training import FieldSettings
from pmni.errors import InputError
from pmni.sdf.checkpoint import load_surface, save_surface
from pmni.sdf.hash_grid import HashGrid
from pmni.sdf.network import NeuralSDF
from pmni.sdf.tiny_cuda_grid import TinyCudaGrid


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


def test_backends_of_the_hash_grid_read_each_others_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = FieldSettings(levels=2, log2_entries=8, base_resolution=4)
    network = NeuralSDF(field, seed=1)
    assert isinstance(network.encoding, HashGrid)
    entries = network.encoding.params.numel()

    class FakeEncoding(torch.nn.Module):
        def __init__(self, **options: object) -> None:
            super().__init__()
            self.params = torch.nn.Parameter(torch.zeros(entries))

    fake = ModuleType("tinycudann")
    fake.Encoding = FakeEncoding  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tinycudann", fake)
    save_surface(tmp_path / "s.safetensors", network, field, 1)
    other = load_surface(tmp_path / "s.safetensors", CPU, "tinycudann")
    assert isinstance(other, NeuralSDF)
    assert isinstance(other.encoding, TinyCudaGrid)
    assert torch.equal(other.encoding.params, network.encoding.params)
    assert torch.equal(other.encoding.grid.params, network.encoding.params)
    save_surface(tmp_path / "t.safetensors", other, field, 1)
    again = load_surface(tmp_path / "t.safetensors", CPU)
    x = torch.rand(20, 3)
    assert torch.equal(again(x), network(x))
