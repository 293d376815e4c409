"""The hash grid of tiny-cuda-nn (CUDA only), in single precision."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pmni.config.training import FieldSettings
from pmni.errors import MissingBackendError
from pmni.sdf.encoding import Encoding


class TinyCudaGrid(Encoding):
    """tiny-cuda-nn's hash grid, with the parameters of `HashGrid`.

    Raises MissingBackendError where tiny-cuda-nn cannot be used.
    """

    graph_capturable = False
    grid: Any

    def __init__(self, settings: FieldSettings, seed: int) -> None:
        super().__init__()
        try:
            import tinycudann
        except (ImportError, OSError) as error:
            raise MissingBackendError(
                "hash grid backend 'tinycudann' cannot be used here "
                f"({error}); install tiny-cuda-nn, or set train.field.backend: auto"
            ) from None
        encoding = tinycudann.Encoding(
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
        # Not a submodule, so that the state dict has the parameters where `HashGrid` has them.
        object.__setattr__(self, "grid", encoding)
        self.params: nn.Parameter = encoding.params
        """All entries, level after level."""
        self.features = settings.features
        self.width = settings.levels * settings.features

    def forward(
        self, x: Float[Tensor, "N 3"], active: int, num_valid: Int[Tensor, ""] | None = None
    ) -> Float[Tensor, "N D"]:
        """Features (N, width) of points in [0, 1]^3; zero from level `active` on."""
        columns = torch.arange(self.width, device=x.device) < active * self.features
        features: Tensor = self.grid(x)
        return features * columns

    def backend_on(self, device: torch.device) -> str:
        """tiny-cuda-nn on every device."""
        return "tinycudann"
