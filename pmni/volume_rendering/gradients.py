"""f and its gradient at the samples on the planes of patches, by one of three methods."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pmni import kernels
from pmni.errors import PmniError
from pmni.kernels.types import Patches, Planes
from pmni.sdf.sdf import SDF, SampledSDF
from pmni.volume_rendering.marching import plane_points


@dataclass(frozen=True)
class Samples:
    """f on M planes of h x w rays, and its gradient."""

    f: Float[Tensor, "M h w"]
    gradient: Float[Tensor, "M h w 3"]
    per_interval: bool
    """True: the gradient is that of the interval behind each plane, in the camera frame.
    False: the gradient is that on the plane, in the world frame."""

    def interval_gradients(self, patches: Patches, planes: Planes) -> Float[Tensor, "M h w 3"]:
        """Gradients of the intervals, in the camera frame."""
        if self.per_interval:
            return self.gradient
        to_camera = patches.rotation.transpose(1, 2)[planes.patch][:, None, None]
        return interval_means((to_camera * self.gradient[..., None, :]).sum(-1))


def sample(
    sdf: SampledSDF, patches: Patches, planes: Planes, method: str, epsilon: float
) -> Samples:
    """f and its gradient by a method of `RenderingSettings.gradient`; `epsilon` is the step of
    finite differences. What padding planes hold means nothing."""
    x = plane_points(patches, planes)
    shape = x.shape[:-1]
    num_valid = planes.offsets[-1] * shape[1:].numel()
    if method == "directional":
        f = sdf(x.view(-1, 3), num_valid).view(shape)
        return Samples(f, directional_gradient(f, patches, planes), True)
    if method == "analytic":
        f, gradient = sdf.value_and_gradient(x.view(-1, 3), num_valid)
    elif method == "finite_difference":
        f = sdf(x.view(-1, 3), num_valid)
        gradient = central_differences(sdf, x.view(-1, 3), epsilon)
    else:
        raise PmniError(f"unknown gradient method '{method}'")
    return Samples(f.view(shape), gradient.view(*shape, 3), False)


def interval_means(values: Float[Tensor, " M *rest"]) -> Float[Tensor, " M *rest"]:
    """Values of the intervals: the mean of each plane's value and the next plane's."""
    return (values + torch.roll(values, -1, dims=0)) / 2


def central_differences(sdf: SDF, x: Float[Tensor, "N 3"], epsilon: float) -> Float[Tensor, "N 3"]:
    """(f(x + epsilon e_i) - f(x - epsilon e_i)) / (2 epsilon) for the three axes."""
    shifts = epsilon * torch.eye(3, device=x.device, dtype=x.dtype)
    around = torch.stack([x[:, None] + shifts, x[:, None] - shifts])  # (2, N, 3, 3)
    f = sdf(around.reshape(-1, 3)).view(2, len(x), 3)
    return (f[0] - f[1]) / (2 * epsilon)


def directional_gradient(
    f: Float[Tensor, "M h w"], patches: Patches, planes: Planes
) -> Float[Tensor, "M h w 3"]:
    """The gradient from differences between samples (SuperNormal, CVPR 2024, eq. 8-10).

    On planes of constant z the three directions of the differences are, in the camera frame,
    z / fx e_x, z / fy e_y and, along the ray, m = (m_x, m_y, 1). With df/du, df/dv, df/dz the
    differences per pixel and per unit of z, the system has the solution

        g_x = fx / z df/du,   g_y = fy / z df/dv,   g_z = df/dz - m_x g_x - m_y g_y.

    It is the gradient of the intervals, and means nothing where they are not valid.
    """
    if kernels.use_triton(f.device) and f.dtype == torch.float32:
        from pmni.kernels.directional import directional_gradient as by_kernels

        return by_kernels(f, patches, planes)
    (df_dv, df_du) = torch.gradient(f, dim=(1, 2))
    focal = patches.focal[planes.patch]
    z = torch.where(planes.z > 0, planes.z, 1.0)[:, None, None]  # padding planes have z = 0
    g_x = interval_means(focal[:, 0, None, None] / z * df_du)
    g_y = interval_means(focal[:, 1, None, None] / z * df_dv)
    dz = torch.roll(planes.z, -1) - planes.z
    dz = torch.where(planes.valid, dz, 1.0)[:, None, None]
    df_dz = (torch.roll(f, -1, dims=0) - f) / dz
    m = patches.m[planes.patch]
    g_z = df_dz - m[..., 0] * g_x - m[..., 1] * g_y
    return torch.stack([g_x, g_y, g_z], dim=-1)
