"""Normals at pixels and points on contours: what refinement compares the surface with."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from pmni.config.refinement import RefineSettings
from pmni.data.views import Views
from pmni.errors import InputError
from pmni.geometry.cameras import ray_directions

MIN_VIEWS = 3
"""Views without which nothing can be refined."""
DEFAULTS = RefineSettings()
"""Settings where nothing else is said."""


@dataclass(frozen=True)
class Observations:
    """Pixels and contour points of V views, those of all views in one list, view by view."""

    names: tuple[str, ...]
    intrinsics: Float[Tensor, "V 3 3"]
    pixels: Int[Tensor, "N 2"]
    """(column, row) of the pixels inside the masks."""
    normals: Float[Tensor, "N 3"]
    """Unit normals of the pixels, camera frame."""
    contour_depth: Float[Tensor, " N"]
    """Distance of the pixels from their mask's contour, pixels."""
    first_pixel: Int[Tensor, " V+1"]
    """Index of each view's first pixel in the list, and the number of pixels."""
    pixel_index: Int[Tensor, "V H W"]
    """Index of each image pixel in the list; -1 for those that are not in it."""
    contour: Float[Tensor, "M 2"]
    """(u, v) of contour points: halfway between neighbouring pixels inside and outside a mask."""
    first_contour_point: Int[Tensor, " V+1"]
    """Index of each view's first contour point, and the number of points."""
    contour_distance: Float[Tensor, "V H W"]
    """Signed distance of all image pixels from the contour, pixels; positive outside."""
    sizes: Int[Tensor, "V 2"]
    """(height, width) of each view's image before padding."""

    @classmethod
    def of(cls, views: Views, min_pixels: int = DEFAULTS.min_view_pixels) -> "Observations":
        """The pixels and contour points of views that are not excluded.

        Raises InputError for fewer than 3 views, a view that shows fewer than `min_pixels` pixels
        of the object, and images without any contour.
        """
        if len(views) < MIN_VIEWS:
            raise InputError(
                f"{views.object_name}: {len(views)} views are too few to refine; give {MIN_VIEWS}"
            )
        usable = views.masks & ~views.excluded_pixels
        counts = usable.sum((1, 2))
        for name, count in zip(views.names, counts.tolist(), strict=True):
            if count < min_pixels:
                raise InputError(
                    f"{views.object_name}: view {name} shows only {count} pixels of the object; "
                    "exclude it or correct its mask"
                )
        contours = _contours(views)
        if not any(map(len, contours)):
            raise InputError(
                f"{views.object_name}: the object fills all images; its outline must be seen"
            )
        pixel_index = torch.full(usable.shape, -1, dtype=torch.int32, device=views.device)
        pixel_index[usable] = torch.arange(
            int(counts.sum()), dtype=torch.int32, device=views.device
        )
        contour_counts = torch.tensor([len(points) for points in contours], device=views.device)
        return cls(
            names=views.names,
            intrinsics=views.intrinsics.float(),
            pixels=usable.nonzero()[:, [2, 1]],
            normals=normalize(views.normals[usable], dim=-1),
            contour_depth=-views.contour_distance[usable],
            first_pixel=_offsets(counts),
            pixel_index=pixel_index,
            contour=torch.as_tensor(np.concatenate(contours), device=views.device),
            first_contour_point=_offsets(contour_counts),
            contour_distance=views.contour_distance,
            sizes=views.sizes,
        )

    def __len__(self) -> int:
        """The number of views."""
        return len(self.names)

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.pixels.device

    def sample_pixels(self, count: int, generator: torch.Generator) -> Int[Tensor, "V P"]:
        """`count` random pixels of each view, as indices into the list."""
        return _sample(self.first_pixel, count, generator)

    def sample_contour(self, count: int, generator: torch.Generator) -> Int[Tensor, "V P"]:
        """`count` random contour points of each view, as indices into the list.

        Those of a view without a contour are another's.
        """
        return _sample(self.first_contour_point, count, generator)

    def directions(
        self, pixels: Float[Tensor, "V P 2"], log_focal: Float[Tensor, ""]
    ) -> Float[Tensor, "V P 3"]:
        """Camera-frame unit directions of pixels (see `pixel_directions`)."""
        return pixel_directions(self._inverse_intrinsics[:, None], pixels, log_focal)

    @cached_property
    def _inverse_intrinsics(self) -> Float[Tensor, "V 3 3"]:
        return torch.linalg.inv(self.intrinsics.cpu()).to(self.intrinsics)

    def repeat_view(self, view: int, count: int) -> "Observations":
        """One view, `count` times."""
        first, last = self.first_pixel[view : view + 2].tolist()
        begin, end = self.first_contour_point[view : view + 2].tolist()
        number = torch.arange(count + 1, device=self.device)
        index = self.pixel_index[view] - first
        shift = (number[:-1] * (last - first)).view(-1, 1, 1)
        return Observations(
            names=(self.names[view],) * count,
            intrinsics=self.intrinsics[view].repeat(count, 1, 1),
            pixels=self.pixels[first:last].repeat(count, 1),
            normals=self.normals[first:last].repeat(count, 1),
            contour_depth=self.contour_depth[first:last].repeat(count),
            first_pixel=number * (last - first),
            pixel_index=torch.where(index < 0, -1, index + shift).to(self.pixel_index.dtype),
            contour=self.contour[begin:end].repeat(count, 1),
            first_contour_point=number * (end - begin),
            contour_distance=self.contour_distance[view].repeat(count, 1, 1),
            sizes=self.sizes[view].repeat(count, 1),
        )

    def pixel_footprint(self, centres: Float[Tensor, "V 3"]) -> Float[Tensor, " V"]:
        """Width of a pixel of each view at the object, normalised units."""
        distance = torch.linalg.vector_norm(centres, dim=-1)
        return distance / self.intrinsics[:, 0, 0].to(distance)


def pixel_directions(
    K_inverse: Float[Tensor, "*v 3 3"], pixels: Float[Tensor, "V P 2"], log_focal: Float[Tensor, ""]
) -> Float[Tensor, "V P 3"]:
    """Camera-frame unit directions of pixels; focal lengths multiplied by exp(log_focal)."""
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
    rays = ray_directions(homogeneous, K_inverse)
    scaled = torch.cat([rays[..., :2] * torch.exp(-log_focal), rays[..., 2:]], dim=-1)
    return scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)


def contour_points(mask: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "M 2"]:
    """(u, v) of the midpoints of all neighbouring pixels of which one is in the mask.

    Where the image's border cuts off the object there is no contour.
    """
    v, u = np.nonzero(mask[:, 1:] != mask[:, :-1])
    along_rows = np.stack([u + 0.5, v], -1)
    v, u = np.nonzero(mask[1:] != mask[:-1])
    along_columns = np.stack([u, v + 0.5], -1)
    return np.concatenate([along_rows, along_columns]).astype(np.float32)


def _contours(views: Views) -> list[Float[np.ndarray, "_ 2"]]:
    """Contour points of each view without those in excluded pixels."""
    contours = []
    masks, excluded = views.masks.cpu().numpy(), views.excluded_pixels.cpu().numpy()
    for mask, hidden, (height, width) in zip(masks, excluded, views.sizes.tolist(), strict=True):
        points = contour_points(mask[:height, :width])
        u, v = points.astype(int).T
        contours.append(points[~hidden[v, u]])
    return contours


def _offsets(counts: Int[Tensor, " V"]) -> Int[Tensor, " _"]:
    """0 and the cumulative sums of counts."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _sample(first: Int[Tensor, " _"], count: int, generator: torch.Generator) -> Int[Tensor, "V P"]:
    lengths = first.diff()[:, None]
    uniform = torch.rand(len(lengths), count, generator=generator, device=first.device)
    index = first[:-1, None] + torch.minimum((uniform * lengths).long(), lengths - 1)
    return index.clamp(0, int(first[-1]) - 1)
