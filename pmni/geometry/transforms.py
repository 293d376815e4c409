"""Similarity transforms, angles between rotations, and the Umeyama alignment."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


def rotation_angle_deg(
    a: Float[np.ndarray, "*batch 3 3"], b: Float[np.ndarray, "*batch 3 3"]
) -> Float[np.ndarray, "*batch"]:
    """Angle of the rotation between a and b, in degrees; accurate at 0 and at 180."""
    relative = np.swapaxes(a, -1, -2) @ b
    cosine = (np.trace(relative, axis1=-2, axis2=-1) - 1) / 2
    sine = np.linalg.norm(
        [
            relative[..., 2, 1] - relative[..., 1, 2],
            relative[..., 0, 2] - relative[..., 2, 0],
            relative[..., 1, 0] - relative[..., 0, 1],
        ],
        axis=0,
    )
    return np.rad2deg(np.arctan2(sine / 2, cosine))


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + shift."""

    scale: float
    rotation: Float[np.ndarray, "3 3"]
    shift: Float[np.ndarray, "3"]

    @staticmethod
    def identity() -> "Similarity":
        """The transform that changes nothing."""
        return Similarity(1.0, np.eye(3), np.zeros(3))

    def __call__(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Move points."""
        return self.scale * points @ self.rotation.T + self.shift

    def __matmul__(self, inner: "Similarity") -> "Similarity":
        """First `inner`, then this."""
        return Similarity(
            self.scale * inner.scale, self.rotation @ inner.rotation, self(inner.shift)
        )

    def inverse(self) -> "Similarity":
        """The transform back."""
        rotation = self.rotation.T
        return Similarity(1 / self.scale, rotation, -rotation @ self.shift / self.scale)

    def move_cameras(self, c2w: Float[np.ndarray, "V 4 4"]) -> Float[np.ndarray, "V 4 4"]:
        """Camera-to-world poses in the moved world; they stay rigid (only centres are scaled)."""
        moved = c2w.copy()
        moved[:, :3, :3] = self.rotation @ c2w[:, :3, :3]
        moved[:, :3, 3] = self(c2w[:, :3, 3])
        return moved


def umeyama(source: Float[np.ndarray, "N 3"], target: Float[np.ndarray, "N 3"]) -> Similarity:
    """The similarity that minimises sum |S(source) - target|^2 (Umeyama, PAMI 1991, eq. 40-43)."""
    mean_source, mean_target = source.mean(0), target.mean(0)
    centred = source - mean_source
    u, d, vt = _proper_svd((target - mean_target).T @ centred / len(source))
    rotation, scale = u @ vt, float(d.sum() / (centred**2).sum(1).mean())
    return Similarity(scale, rotation, mean_target - scale * rotation @ mean_source)


def project_to_rotation(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The rotation closest to a matrix in the Frobenius norm (Umeyama, PAMI 1991, lemma).

    The mean of rotations is the projection of their weighted sum.
    """
    u, _, vt = _proper_svd(matrix)
    return u @ vt


def _proper_svd(
    matrix: Float[np.ndarray, "3 3"],
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"], Float[np.ndarray, "3 3"]]:
    """U, d and V^T with U diag(d) V^T = matrix and U V^T a rotation.

    The smallest singular value is negative where the matrix contains a reflection.
    """
    u, d, vt = np.linalg.svd(matrix)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return u * sign, d * sign, vt
