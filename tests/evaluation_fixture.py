"""A small capture whose truth is known: a lumpy body seen by a few far cameras."""

import numpy as np
import trimesh

from pmni.cameras import pixel_grid, ray_directions, turntable
from pmni.capture.capture import Capture
from pmni.io.meshes import Mesh
from pmni.lie import Similarity

SCALE, OFFSET = 80.0, np.array([5.0, -7.0, 30.0])
DISTANCE = 18.75  # 1500 mm


def lumpy(subdivisions: int = 5) -> Mesh:
    """A body without symmetry, about 60 mm in radius, dataset units."""
    ball = trimesh.creation.icosphere(subdivisions)
    x, y, z = ball.vertices.T
    radius = 0.7 + 0.12 * np.sin(3 * x + 1) * np.cos(4 * y) + 0.1 * z * x - 0.08 * y**2
    return Mesh(SCALE * ball.vertices * radius[:, None] + OFFSET, np.asarray(ball.faces))


def ball(radius: float, subdivisions: int = 5) -> Mesh:
    """A sphere about the offset, dataset units."""
    sphere = trimesh.creation.icosphere(subdivisions)
    return Mesh(sphere.vertices * radius + OFFSET, np.asarray(sphere.faces))


def capture_of(
    mesh: Mesh, views: int = 7, height: int = 64, width: int = 76, elevation: float = 0.45
) -> Capture:
    """A capture with exact normals, cast by trimesh alone."""
    c2w = turntable(np.arange(views) * 2 * np.pi / views + 0.1, elevation, DISTANCE)
    focal = 3760.0 * height / 512
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    solid = trimesh.Trimesh((mesh.vertices - OFFSET) / SCALE, mesh.faces, process=False)
    masks = np.zeros((views, height, width), bool)
    normals = np.zeros((views, height, width, 3), np.float32)
    for view, pose in enumerate(c2w):
        directions = ray_directions(pixel_grid(height, width), np.linalg.inv(K)).reshape(-1, 3)
        directions = directions @ pose[:3, :3].T
        origins = pose[:3, 3] + 13 * directions
        points, ray, triangle = solid.ray.intersects_location(
            origins, directions, multiple_hits=False
        )
        weights = trimesh.triangles.points_to_barycentric(solid.triangles[triangle], points)
        smooth = np.einsum("ij,ijk->ik", weights, solid.vertex_normals[solid.faces[triangle]])
        smooth /= np.linalg.norm(smooth, axis=1, keepdims=True)
        masks[view].reshape(-1)[ray] = True
        normals[view].reshape(-1, 3)[ray] = smooth @ pose[:3, :3]
    return Capture(
        name="lump",
        views=tuple(f"{view:02d}" for view in range(views)),
        normals=normals.copy(),
        masks=masks,
        intrinsics=np.tile(K, (views, 1, 1)),
        reference_c2w=c2w,
        scale=SCALE,
        offset=OFFSET,
        true_normals=normals,
        true_vertices=np.array(mesh.vertices),
        true_faces=mesh.faces,
    )


def in_normalised(similarity: Similarity) -> Similarity:
    """A similarity of dataset units as one of the normalised world."""
    to_dataset = Similarity(SCALE, np.eye(3), OFFSET)
    return to_dataset.inverse() @ similarity @ to_dataset


def moved(mesh: Mesh, similarity: Similarity) -> Mesh:
    return Mesh(similarity(mesh.vertices), mesh.faces)
