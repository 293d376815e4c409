"""Settings of `prepare` and `synthesize`."""

from typing import ClassVar, Literal

from pydantic import Field

from pmni.config.base import Settings


class PrepareSettings(Settings):
    """How a dataset folder becomes a capture."""

    upsample_factor: float = Field(1.0, gt=0, le=8)
    """Resize normals, masks and intrinsics: 2 doubles the resolution, 0.5 halves it."""

    depth_init_scale: float = Field(1.0, gt=0)
    """Multiplies the ray distances that come with a dataset (`integration/perspective`)."""


class SynthesizeSettings(Settings):
    """A synthetic capture with exact ground truth, seen by DiLiGenT-like cameras."""

    deprecated_names: ClassVar = {"mask_raggedness": "mask_jitter"}

    scene: str = "blob"
    """The name of an analytic scene, or the path of a mesh file."""

    views: int = Field(20, ge=2, le=500)
    """Number of views."""

    height: int = Field(512, ge=16)
    """Image height in pixels; the field of view stays the same."""

    width: int = Field(612, ge=16)
    """Image width in pixels."""

    poses: Literal["turntable", "handheld", "random"] = "turntable"
    """Equal steps on a turntable; once round the object by hand: uneven steps, elevations from 5
    to 50 degrees, up to 20 degrees of roll; or anywhere: elevations from -10 to 60 degrees, any
    roll."""

    elevation: float = Field(25.0, gt=-90, lt=90)
    """Elevation of the turntable's cameras, degrees."""

    distance: float = Field(1500.0, gt=0)
    """Distance of the cameras from the object, mm."""

    radius: float = Field(80.0, gt=0)
    """Radius of the object's bounding sphere, mm."""

    pose_jitter: float = Field(0.0, ge=0)
    """How far the cameras are off the ideal turntable; 1 is a hand-made rig (degrees and mm)."""

    shuffle: bool = False
    """Number the views in random order."""

    known_poses: bool = True
    """Leave poses and mesh where `prepare` takes them for known; else only in the folder `gt`,
    from which they are read to measure errors with."""

    normal_noise: float = Field(0.0, ge=0, lt=45)
    """Mean angle of the noisy normals' random error, degrees."""

    shading_error: float = Field(0.0, ge=0, lt=45)
    """Mean angle of the noisy normals' error from interreflection and shadows, degrees: concavities
    are flattened, and normals in shadow are wrong in patches."""

    mask_offset: float = Field(0.0, ge=0, le=10)
    """Standard deviation over the views of how far a mask is too large or too small, pixels."""

    mask_jitter: float = Field(0.0, ge=0, le=10)
    """Standard deviation along a mask's contour of the contour's displacement, pixels."""

    up: Literal["x", "y", "z"] = "z"
    """The up axis of a mesh file."""

    subdivide: int = Field(0, ge=0, le=4)
    """Rounds of Loop subdivision, which rounds the facets of a coarse mesh file."""

    seed: int = Field(0, ge=0)
    """Seed of poses and noise."""

    @property
    def normal_set(self) -> str:
        """The folder with the normals as they are measured: the exact ones if nothing is wrong."""
        wrong = (self.normal_noise, self.shading_error, self.mask_offset, self.mask_jitter)
        return f"normal_camera_space_{'noisy' if any(wrong) else 'GT'}"
