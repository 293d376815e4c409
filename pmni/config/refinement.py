"""Settings of `refine`."""

from typing import Literal

from pydantic import Field

from pmni.config.base import Settings


class RefineSettings(Settings):
    """Poses and a grid SDF together, by Gauss-Newton on the normal maps and contours."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs; `auto` takes a GPU when there is one."""

    exclude_views: tuple[str, ...] = ()
    """Views that are held out."""

    heldout: float = Field(0.0, ge=0, le=0.5)
    """Part of the blocks of pixels of each view that is left out, for `train` to judge surfaces
    by."""

    learn_poses: bool = True
    """Whether poses are refined; otherwise they stay as registered and the surface alone is."""

    learn_focal: bool = False
    """Whether a common factor of all focal lengths is found too."""

    cells: Literal[32, 64, 128, 256, 512] | None = None
    """Cells of the finest grid along a side of [-1, 1]^3; None chooses as many as the pixels are
    worth, 512 at most."""

    iterations: tuple[int, int, int] = (6, 8, 10)
    """Outer iterations on the coarsest grid, on those between, and on the finest; three times as
    many at most where that is worth while."""

    pixels: int | None = Field(None, ge=100)
    """Pixels drawn from each view in an outer iteration on the finest grid; None takes as many as
    the views have on average, at most 20,000 on a GPU and 8,000 else."""

    conjugate_gradients: int = Field(50, ge=5)
    """Iterations of the linear solver."""

    bias_deg: float = Field(4.0, ge=0)
    """Expected size of a slow drift of a view's normals, degrees; 0 estimates none."""

    flattening: bool = True
    """Whether a common flattening of the normals (towards or away from the camera) is estimated."""

    open_hollows: bool = True
    """Whether a normal that does not fit may be that of another part of the object: the surface
    moves to where other views agree with it along its ray, or yields where none does, and in the
    end it does not count. Wrong where poses are several degrees wrong on finer grids."""

    seed: int = Field(0, ge=0)
    """Seed of the draws."""

    deterministic: bool = False
    """Whether the same run on the same machine has the same results to the last bit, which is
    slower on a GPU. On a CPU it always has."""
