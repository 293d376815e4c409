"""Rotations of tensors: cross-product matrices, the exponential map, projection to SO(3)."""

import torch
from jaxtyping import Float
from torch import Tensor


def cross_matrix(v: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3 3"]:
    """The skew-symmetric matrices [v] with [v] w = v x w."""
    zero = torch.zeros_like(v[..., 0])
    x, y, z = v.unbind(-1)
    rows = [torch.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return torch.stack(rows, dim=-2)


def exp_so3(v: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3 3"]:
    """Rotation matrices of rotation vectors (radians)."""
    return torch.linalg.matrix_exp(cross_matrix(v))


def nearest_rotation(matrix: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3 3"]:
    """The orthogonal matrix nearest to each: a rotation if the matrix is nearly one."""
    u, _, vt = torch.linalg.svd(matrix)
    return u @ vt
