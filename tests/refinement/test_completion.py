"""The part of the surface that no camera observes."""

import torch
from fixtures.refinement import blob, cameras, refined

from pmni.refinement.completion import complete_surface


def test_what_no_camera_observes_is_completed_smoothly_and_marked() -> None:
    """The cameras look down on the object."""
    solver, _ = refined(blob()[0], cameras(), learn_poses=False, pixels=700, iterations=[3, 1, 2])
    before = solver.state.surface
    after = complete_surface(solver)
    assert after.observed is not None
    near = before.values.abs() < before.grid.spacing
    assert torch.equal(after.values[near & after.observed], before.values[near & after.observed])
    rough, smooth = (
        surface.grid.laplacian(surface.values)[near & ~after.observed].abs().mean()
        for surface in (before, after)
    )
    assert smooth < 0.5 * rough
    height = after.grid.positions()[near, 2]
    lowest, highest = height < height.quantile(0.02), height > height.quantile(0.98)
    assert after.observed[near][highest].float().mean() > 0.9
    assert after.observed[near][lowest].float().mean() < 0.7
