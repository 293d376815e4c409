"""Multi-resolution hash encoding (Müller et al., SIGGRAPH 2022): PyTorch, or kernels on a GPU.

The parameter layout and the arithmetic are tiny-cuda-nn's, so parameters move between backends.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor, nn

from pmni import kernels
from pmni.config.training import FieldSettings
from pmni.errors import MissingBackendError
from pmni.kernels.constants import HASH_PRIMES
from pmni.kernels.types import HashGridTensors
from pmni.sdf.encoding import Encoding


@dataclass(frozen=True)
class Level:
    """One resolution of the grid."""

    scale: float
    """Grid cells in [0, 1]."""
    resolution: int
    """Grid nodes along a side."""
    entries: int
    """Number of entries in the table."""
    offset: int
    """Index of the first of them."""
    dense: bool
    """Whether every node has its own entry (else nodes are hashed)."""


def grid_levels(levels: int, log2_entries: int, base: int, growth: float) -> list[Level]:
    """The levels of a hash grid, as tiny-cuda-nn lays them out."""
    result, offset = [], 0
    for index in range(levels):
        scale = 2.0 ** (index * math.log2(growth)) * base - 1.0
        resolution = math.ceil(scale) + 1
        nodes = (resolution**3 + 7) // 8 * 8
        entries = min(nodes, 2**log2_entries)
        result.append(Level(scale, resolution, entries, offset, resolution**3 <= entries))
        offset += entries
    return result


def layout_of(levels: Sequence[Level]) -> Int32[Tensor, "L 5"]:
    """The levels as kernels read them: bits of the scale (float32), resolution, entries, offset,
    and 1 if nodes are hashed."""
    scales = torch.tensor([level.scale for level in levels]).view(torch.int32)
    sizes = [(level.resolution, level.entries, level.offset, not level.dense) for level in levels]
    return torch.cat([scales[:, None], torch.tensor(sizes, dtype=torch.int32)], dim=1)


def runs_kernels(backend: Literal["auto", "torch", "triton"], device: torch.device) -> bool:
    """Whether kernels compute the grid on a device.

    Raises MissingBackendError when the backend says so and they cannot.
    """
    chosen = backend != "torch" and kernels.use_triton(device)
    if backend == "triton" and not chosen:
        raise MissingBackendError(
            f"hash grid backend 'triton' needs a CUDA device (this is {device.type}) and "
            f"{kernels.BACKEND_VARIABLE} not to be torch; set train.field.backend: auto"
        )
    return chosen


class HashGrid(Encoding):
    """Features of points, trilinearly interpolated from a hashed grid at each level.

    Args:
        levels, features, log2_entries, base, growth: the shape of the grid; `growth` is the ratio
            of the resolutions of neighbouring levels.
        backend: the implementation; `auto` takes kernels on a GPU.
    """

    layout: Tensor

    def __init__(
        self,
        levels: int,
        features: int,
        log2_entries: int,
        base: int,
        growth: float,
        generator: torch.Generator,
        backend: Literal["auto", "torch", "triton"] = "auto",
    ) -> None:
        super().__init__()
        self.levels = grid_levels(levels, log2_entries, base, growth)
        self.features = features
        entries = self.levels[-1].offset + self.levels[-1].entries
        values = torch.empty(entries, features).uniform_(-1e-4, 1e-4, generator=generator)
        self.params = nn.Parameter(values.reshape(-1))
        self.width = levels * features
        self.backend = backend
        self.register_buffer("layout", layout_of(self.levels), persistent=False)

    def forward(
        self, x: Float[Tensor, "N 3"], active: int, num_valid: Int[Tensor, ""] | None = None
    ) -> Float[Tensor, "N D"]:
        """Features (N, levels * features) of points in [0, 1]^3; zero from level `active` on."""
        grid = self.kernel_grid(x.device, active, num_valid)
        if grid is not None:
            from pmni.kernels.hash_grid import hash_grid_features

            return hash_grid_features(x, grid)
        table = self.params.view(-1, self.features)
        columns = [interpolate(table, level, x) for level in self.levels[:active]]
        idle = (len(self.levels) - active) * self.features
        if idle:
            columns.append(x.new_zeros(len(x), idle))
        return torch.cat(columns, dim=-1)

    def backend_on(self, device: torch.device) -> str:
        """`triton` where kernels run, else `torch`."""
        return "triton" if runs_kernels(self.backend, device) else "torch"

    def kernel_grid(
        self, device: torch.device, active: int, num_valid: Int[Tensor, ""] | None
    ) -> HashGridTensors | None:
        """The grid as kernels take it, where they run."""
        if not runs_kernels(self.backend, device):
            return None
        return self.kernel_tensors(active, num_valid)

    def kernel_tensors(self, active: int, num_valid: Int[Tensor, ""] | None) -> HashGridTensors:
        """The grid as kernels take it, with its first `active` levels switched on."""
        levels = min(active, len(self.levels))
        return HashGridTensors(self.params, self.layout, self.features, levels, num_valid)


def make_hash_grid(settings: FieldSettings, seed: int) -> Encoding:
    """The hash grid of the settings, computed by their backend."""
    if settings.backend == "tinycudann":
        from pmni.sdf.tiny_cuda_grid import TinyCudaGrid

        return TinyCudaGrid(settings, seed)
    return HashGrid(
        settings.levels,
        settings.features,
        settings.log2_entries,
        settings.base_resolution,
        settings.growth,
        torch.Generator().manual_seed(seed),
        settings.backend,
    )


def interpolate(
    table: Float[Tensor, "T F"], level: Level, x: Float[Tensor, "N 3"]
) -> Float[Tensor, "N F"]:
    """Trilinear interpolation of one level's entries at points in [0, 1]^3."""
    position = x * level.scale + 0.5
    node = position.detach().floor()
    t = (position - node).unsqueeze(-1)  # (N, 3, 1) fractions in [0, 1)
    rows = gather_rows(table, corner_indices(level, node.long()))
    c = rows.view(2, 2, 2, len(x), table.shape[1])  # bits of z, y, x
    # One axis after another: 4 + 2 + 1 blends, and no product over eight corner weights.
    along_x = c[:, :, 0] + (c[:, :, 1] - c[:, :, 0]) * t[:, 0]
    along_y = along_x[:, 0] + (along_x[:, 1] - along_x[:, 0]) * t[:, 1]
    return along_y[0] + (along_y[1] - along_y[0]) * t[:, 2]


def corner_indices(level: Level, node: Int[Tensor, "N 3"]) -> Int[Tensor, " 8*N"]:
    """Table rows of the corners of N cells, corner by corner; the x bit varies fastest."""
    ends = torch.stack([node, node + 1])  # (2, N, 3): the two nodes along each axis
    x, y, z = ends[None, None, :, :, 0], ends[None, :, None, :, 1], ends[:, None, None, :, 2]
    if level.dense:
        index = x + level.resolution * (y + level.resolution * z)
    else:
        index = (x * HASH_PRIMES[0]) ^ (y * HASH_PRIMES[1]) ^ (z * HASH_PRIMES[2])
    return (index % level.entries + level.offset).reshape(-1)


def gather_rows(table: Float[Tensor, "T F"], rows: Int[Tensor, " M"]) -> Float[Tensor, "M F"]:
    """`table[rows]`. Pairs are gathered as complex numbers, which is several times faster."""
    if table.shape[1] != 2:
        return table.index_select(0, rows)
    return torch.view_as_real(torch.view_as_complex(table).index_select(0, rows))
