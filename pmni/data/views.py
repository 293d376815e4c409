"""The images of a capture as tensors on one device, which all solvers read."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pmni.data.capture import Capture
from pmni.data.heldout import heldout_blocks
from pmni.geometry.silhouettes import signed_distances


@dataclass(frozen=True)
class Views:
    """The V views of a capture that take part, padded to one size H x W.

    Normals are unit vectors in the camera frame (OpenCV axes), zero outside the mask. Ray distances
    have an unknown scale in each view.
    """

    object_name: str
    names: tuple[str, ...]
    normals: Float[Tensor, "V H W 3"]
    masks: Bool[Tensor, "V H W"]
    intrinsics: Float[Tensor, "V 3 3"]
    """float64: solvers convert them as they need."""
    sizes: Int[Tensor, "V 2"]
    """(height, width) of each view's image before padding."""
    excluded_pixels: Bool[Tensor, "V H W"]
    """Pixels that no solver may fit: held out for validation, or padding."""
    ray_distances: Float[Tensor, "V H W"] | None = None
    """Integrated from the normals; NaN where there are none."""

    @classmethod
    def of(
        cls,
        capture: Capture,
        ray_distances: Float[np.ndarray, "V H W"] | None = None,
        exclude: tuple[str, ...] = (),
        heldout: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> "Views":
        """The views that are not in `exclude`; the fraction `heldout` of pixel blocks is held out.

        Raises InputError for an unknown view in `exclude`.
        """
        chosen = capture.view_indices(exclude)
        sizes = capture.image_sizes()
        excluded = heldout_blocks(capture.masks, heldout)
        for image, (height, width) in zip(excluded, sizes, strict=True):
            image[height:] = image[:, width:] = True

        def tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(array[chosen], dtype=dtype, device=device)

        return cls(
            object_name=capture.name,
            names=tuple(capture.views[index] for index in chosen),
            normals=tensor(capture.normals, torch.float32),
            masks=tensor(capture.masks, torch.bool),
            intrinsics=tensor(capture.intrinsics, torch.float64),
            sizes=tensor(sizes, torch.int64),
            excluded_pixels=tensor(excluded, torch.bool),
            ray_distances=None if ray_distances is None else tensor(ray_distances, torch.float32),
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.normals.device

    @cached_property
    def contour_distance(self) -> Float[Tensor, "V H W"]:
        """Signed distance of each pixel from the mask's contour, pixels, positive outside."""
        distances = signed_distances(self.masks.cpu().numpy(), self.sizes.cpu().numpy())
        return torch.as_tensor(distances, device=self.device)
