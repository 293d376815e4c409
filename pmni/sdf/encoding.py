"""The encodings of the SDF network, one interface; backends hold the same parameters."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pmni.config.training import FieldSettings
from pmni.errors import MissingBackendError
from pmni.sdf.hash_grid import HashGrid, runs_kernels


@runtime_checkable
class Encoding(Protocol):
    """Features of points in [0, 1]^3."""

    width: int

    def __call__(
        self, x: Float[Tensor, "N 3"], active: int, real: Int[Tensor, ""] | None = None
    ) -> Float[Tensor, "N D"]:
        """Features (N, width) from the first `active` levels, zero from there on; those of points
        beyond the first `real` ones, if that is given, mean nothing."""
        ...


class NoEncoding(nn.Module):
    """No features: the network sees the coordinates alone."""

    width = 0

    def forward(
        self, x: Float[Tensor, "N 3"], active: int, real: Int[Tensor, ""] | None = None
    ) -> Float[Tensor, "N 0"]:
        """An empty feature vector for each point."""
        return x.new_zeros(len(x), 0)


class TinyCudaGrid(nn.Module):
    """The hash grid of tiny-cuda-nn (CUDA only), in single precision."""

    def __init__(self, settings: FieldSettings, seed: int) -> None:
        super().__init__()
        try:
            import tinycudann
        except (ImportError, OSError) as error:
            raise MissingBackendError(
                "hash grid backend 'tinycudann' cannot be used here "
                f"({error}); install tiny-cuda-nn, or set train.field.backend: auto"
            ) from None
        self.grid = tinycudann.Encoding(
            n_input_dims=3,
            encoding_config={
                "otype": "HashGrid",
                "n_levels": settings.levels,
                "n_features_per_level": settings.features,
                "log2_hashmap_size": settings.log2_entries,
                "base_resolution": settings.base_resolution,
                "per_level_scale": settings.growth,
                "interpolation": "Linear",
            },
            seed=seed,
            dtype=torch.float32,
        )
        self.features = settings.features
        self.width = settings.levels * settings.features

    @property
    def params(self) -> nn.Parameter:
        """All entries, level after level."""
        return self.grid.params

    def forward(
        self, x: Float[Tensor, "N 3"], active: int, real: Int[Tensor, ""] | None = None
    ) -> Float[Tensor, "N D"]:
        """Features, with the columns of idle levels set to zero."""
        columns = torch.arange(self.width, device=x.device) < active * self.features
        return self.grid(x) * columns


def make_encoding(settings: FieldSettings, seed: int) -> HashGrid | TinyCudaGrid | NoEncoding:
    """The encoding that `settings` asks for."""
    if settings.encoding == "none":
        return NoEncoding()
    if settings.backend == "tinycudann":
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


def backend_on(settings: FieldSettings, device: torch.device) -> str:
    """Who computes the encoding on a device: what `auto` means there."""
    if settings.encoding == "none":
        return "torch"
    if settings.backend == "tinycudann":
        return settings.backend
    return "triton" if runs_kernels(settings.backend, device) else "torch"
