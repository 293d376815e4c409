"""Test data: an analytic surface, a network, and synthetic captures of an object."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pmni.config.capture import SynthesizeSettings
from pmni.config.training import FieldSettings
from pmni.data.capture import Capture
from pmni.data.normalisation import around_mesh
from pmni.sdf.network import NeuralSDF
from pmni.synthetic.camera_rig import intrinsics, turntable_poses
from pmni.synthetic.mesh_surface import MeshSurface
from pmni.synthetic.rendering import render
from pmni.synthetic.scenes import HALF_SIDE, SCENES
from pmni.synthetic.sensor import simulate_sensor
from pmni.synthetic.tessellation import tessellate

SCENE = "fish"
RIG = SynthesizeSettings(scene=SCENE, pose_jitter=1.0, normal_noise=4.0)


@dataclass(frozen=True)
class Bumpy:
    """A sphere with bumps; approximately a signed distance function."""

    radius: float = 0.75

    def __call__(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Values at points."""
        bumps = 0.03 * torch.sin(11 * x).prod(dim=-1)
        return torch.linalg.vector_norm(x, dim=-1) - self.radius + bumps

    def value_and_gradient(
        self, x: Float[Tensor, "N 3"]
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
        """Values and gradients at points."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = self(x)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient


def network(settings: FieldSettings, device: torch.device) -> NeuralSDF:
    """A network initialised to a sphere, with fixed random noise added to all weights."""
    result = NeuralSDF(settings, seed=0).to(device)
    generator = torch.Generator().manual_seed(1)
    for parameter in result.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.01 * noise.to(device)
    return result


@cache
def capture_of(views: int, height: int, width: int, faces: int) -> Capture:
    """A synthetic capture: turntable with pose jitter, noisy normals (4 degrees on average)."""
    solid = tessellate(SCENES[SCENE](), HALF_SIDE, faces).scaled_to(RIG.radius)
    K = intrinsics(height, width)
    elevation = float(np.deg2rad(RIG.elevation))
    c2w = turntable_poses(views, elevation, RIG.distance, RIG.pose_jitter, _stream(0))
    rendered = render(MeshSurface(solid.mesh), K, c2w, height, width)
    normals, masks, ground_truth_normals, distances = [], [], [], []
    for view, measurement in simulate_sensor(rendered, c2w, solid.mesh, RIG, _stream):
        normals.append(measurement.normals.astype(np.float32))
        ground_truth_normals.append(view.normals.astype(np.float32))
        masks.append(measurement.mask)
        distances.append(view.ray_distance.astype(np.float32))
    world = around_mesh(solid.mesh)
    return Capture(
        name=SCENE,
        views=tuple(f"{view:02d}" for view in range(views)),
        normals=np.stack(normals),
        masks=np.stack(masks),
        intrinsics=np.stack([K] * views),
        reference_c2w=world.cameras(c2w),
        scale=world.scale,
        offset=world.offset,
        ground_truth_normals=np.stack(ground_truth_normals),
        ground_truth_mesh=solid.mesh,
        ray_distances=np.stack(distances),
    )


def _stream(number: int) -> np.random.Generator:
    return np.random.default_rng(number)


def with_views(capture: Capture, count: int) -> Capture:
    """The capture with `count` of its views, evenly spaced."""
    chosen = np.arange(count) * len(capture.views) // count
    assert capture.reference_c2w is not None
    assert capture.ground_truth_normals is not None
    assert capture.ray_distances is not None
    return replace(
        capture,
        views=tuple(capture.views[index] for index in chosen),
        normals=capture.normals[chosen],
        masks=capture.masks[chosen],
        intrinsics=capture.intrinsics[chosen],
        reference_c2w=capture.reference_c2w[chosen],
        ground_truth_normals=capture.ground_truth_normals[chosen],
        ray_distances=capture.ray_distances[chosen],
    )
