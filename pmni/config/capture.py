"""Settings of `prepare` and `synthesize`."""

from typing import ClassVar, Literal

from pydantic import Field

from pmni.config.base import Settings


class ValidationSettings(Settings):
    """Thresholds of the checks of a dataset; what exceeds them is an error that names the view."""

    max_missing_normals: float = Field(0.01, ge=0, le=1)
    """Largest fraction of mask pixels without a normal; fewer are taken out of the mask."""

    max_length_error: float = Field(0.1, gt=0)
    """Largest deviation of a normal's length from 1."""

    max_wrong_lengths: float = Field(0.1, ge=0, le=1)
    """Largest fraction of normals whose lengths deviate by more than `max_length_error`."""

    max_facing_away: float = Field(0.2, ge=0, le=1)
    """Largest fraction of a view's normals that point away from the camera."""

    max_flipped_correlation: float = Field(0.2, ge=0, le=1)
    """Largest negative correlation of normals at the contours with the outward direction."""

    min_swapped_correlation: float = Field(0.5, ge=0, le=1)
    """Correlation of normals with the other image axis from which x and y count as swapped."""

    max_normals_outside: float = Field(0.5, ge=0, le=1)
    """Largest fraction of pixels outside a mask with a normal for which normals and masks are
    compared; dense normal maps do not tell which mask belongs to them."""

    min_swap_gain: float = Field(0.005, ge=0)
    """Gain in overlap with another view's mask from which views count as swapped."""

    swap_misfit: float = Field(2.0, ge=0)
    """Median misfit between data and masks that is added to `min_swap_gain`, as a multiple."""

    max_skew: float = Field(0.01, ge=0)
    """Largest skew of the intrinsics, as a fraction of the focal length."""

    max_aspect_deviation: float = Field(0.05, gt=0)
    """Largest relative deviation of a view's fx / fy from the median."""

    max_outside_sphere: float = Field(0.5, ge=0, le=1)
    """Largest fraction of a mask's rays that miss the unit sphere of the normalised world."""

    warn_outside_sphere: float = Field(0.001, ge=0, le=1)
    """Fraction of a mask's rays outside the unit sphere from which a warning is given."""

    max_ground_truth_angle: float = Field(45.0, gt=0, le=180)
    """Largest mean angle between normals and ground-truth normals, degrees."""

    min_mesh_inside: float = Field(0.7, ge=0, le=1)
    """Smallest fraction of the ground-truth mesh's vertices that project into a mask."""


class NormalisationSettings(Settings):
    """The unit sphere of the normalised world, where a dataset with poses does not define it."""

    mesh_margin: float = Field(1.1, ge=1)
    """Radius of the unit sphere, in radii of the ground-truth mesh."""

    views_margin: float = Field(1.2, ge=1)
    """Radius of the unit sphere, in distances of the silhouettes' rays from its centre; views from
    one side do not show the whole extent of an object."""


class PrepareSettings(Settings):
    """How a dataset folder becomes a capture."""

    upsample_factor: float = Field(1.0, gt=0, le=8)
    """Resize normals, masks and intrinsics: 2 doubles the resolution, 0.5 halves it."""

    depth_init_scale: float = Field(1.0, gt=0)
    """Factor of the ray distances that come with a dataset (`integration/perspective`)."""

    validation: ValidationSettings = ValidationSettings()
    """Thresholds of the checks."""

    normalisation: NormalisationSettings = NormalisationSettings()
    """The normalised world."""


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
