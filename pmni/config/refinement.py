"""Settings of `refine`."""

from typing import ClassVar, Literal

from pydantic import Field

from pmni.config.base import Settings


class VisualHullSettings(Settings):
    """The tolerant visual hull from which the surface starts."""

    nodes: int = Field(65, ge=9)
    """Nodes along a side of the grid on which it is computed."""

    min_coverage: float = Field(0.97, gt=0, le=1)
    """Smallest fraction of mask pixels whose rays must meet the hull."""

    probes: int = Field(500, ge=1)
    """Pixels of each view from which the coverage is estimated."""

    max_disagreeing_fraction: float = Field(0.2, ge=0, lt=1)
    """Largest fraction of views outside whose masks a point of the hull may lie."""


class NarrowBandSettings(Settings):
    """The fine sparse grid around the surface, and the reinitialisation of its values."""

    half_width_cells: float = Field(4.0, gt=0)
    """Blocks of 4 x 4 x 4 nodes whose centre is within this distance (plus half a block) of the
    surface belong to the band, cells."""

    margin_cells: float = Field(1.5, ge=0)
    """Further distance within which blocks are added when the band is built, so that the surface
    may move before it is rebuilt, cells."""

    fixed_cells: float = Field(1.5, gt=0)
    """Distance from the surface within which reinitialisation keeps the values, cells."""

    truncation_cells: float = Field(8.0, gt=0)
    """Largest absolute value, in cells of the coarse background grid."""

    initial_sweeps: int = Field(12, ge=0)
    """Sweeps of reinitialisation of the visual hull."""

    resampling_sweeps: int = Field(4, ge=0)
    """Sweeps of reinitialisation when the surface goes over to a finer grid."""

    step_sweeps: int = Field(6, ge=0)
    """Sweeps of reinitialisation after a step."""


class SamplingSettings(Settings):
    """How many pixels and contour points an outer iteration draws."""

    max_pixels_gpu: int = Field(20_000, ge=100)
    """Largest number of pixels of each view on a GPU, where `pixels` is not given."""

    max_pixels_cpu: int = Field(8_000, ge=100)
    """Largest number of pixels of each view on a CPU, where `pixels` is not given."""

    min_pixels: int = Field(2_000, ge=1)
    """Smallest number of pixels of each view on coarse grids, where fewer cells need fewer."""

    contour_points_per_pixel: float = Field(0.075, gt=0)
    """Contour points drawn for each pixel drawn."""

    min_contour_points: int = Field(50, ge=1)
    """Smallest number of contour points drawn from each view."""


class ResidualSettings(Settings):
    """The limits of residuals and of their derivatives."""

    min_ray_cosine: float = Field(0.15, gt=0, lt=1)
    """Smallest |cosine| between ray and normal by which the slide along the surface is divided."""

    min_visible_cosine: float = Field(0.02, ge=0, lt=1)
    """Smallest |cosine| between ray and normal at which a pixel has a residual."""

    min_curvature_step: float = Field(0.01, gt=0)
    """Smallest distance over which normals are differentiated, normalised units; a cell if that is
    more."""

    max_curvature: float = Field(50.0, gt=0)
    """Largest absolute derivative of the normal, 1 / normalised units."""

    occlusion_length: float = Field(0.4, gt=0)
    """Length of a normal's residual at which the ray may see another part of the object: the
    robust weight exp(-(length / this)^2)."""

    trace_step_cells: float = Field(0.25, gt=0)
    """Smallest step of sphere tracing, cells."""

    trace_max_steps: int = Field(80, ge=1)
    """Largest number of sphere-tracing steps; a ray that needs more only grazes the surface."""

    approach_step_cells: float = Field(2.5, gt=0)
    """Smallest step on the way to a ray's closest approach to the surface, cells."""


class RobustWeightSettings(Settings):
    """The Huber thresholds and weights of residuals."""

    normal_factor: float = Field(3.0, gt=0)
    """Huber threshold of normals, in median residuals."""

    normal_min: float = Field(0.25, gt=0)
    """Smallest Huber threshold of normals, radians."""

    normal_max: float = Field(0.8, gt=0)
    """Largest Huber threshold of normals, radians."""

    contour_factor: float = Field(3.0, gt=0)
    """Huber threshold of contours, in robust standard deviations."""

    contour_min_px: float = Field(2.5, gt=0)
    """Smallest Huber threshold of contours, pixels."""

    contour_max_px: float = Field(15.0, gt=0)
    """Largest Huber threshold of contours, pixels."""

    min_contour_scale_px: float = Field(0.2, gt=0)
    """Smallest robust standard deviation that contours may have, pixels."""

    smooth_contour_px: float = Field(0.35, gt=0)
    """Largest robust standard deviation of contours that are not jittered, pixels."""

    contour_share: float = Field(0.4, gt=0)
    """Weight of all contour points together, relative to all pixels, when both have residuals of
    their own usual size: neighbouring normals share their errors, so that many count as one."""

    erosion_factor: float = Field(2.0, ge=0)
    """Width of the eroded boundary, where normals do not count, per pixel of contour jitter."""

    max_erosion_px: float = Field(5.0, ge=0)
    """Largest width of the eroded boundary, pixels."""

    converged_residual: float = Field(0.15, gt=0)
    """Median residual of normals, radians, below which the surface on the finest grid has converged
    and occlusion suspects no longer count."""


class PriorSettings(Settings):
    """What is expected of the errors of normals and masks."""

    bias_field_deg: float = Field(4.0, ge=0)
    """Expected size of a slow drift of a view's normals, degrees; 0 estimates none."""

    normal_tilt_bias: bool = True
    """Whether a tilt of all normals, away from or towards the camera, is estimated."""

    independent_normals: float = Field(60.0, gt=0)
    """Independent measurements that a view's normals amount to: neighbours share their errors."""

    independent_contour_points: float = Field(150.0, gt=0)
    """Independent measurements that a view's contour amounts to."""

    min_contour_offset_px: float = Field(0.05, gt=0)
    """Smallest expected size of contour offsets, pixels."""


class LinearSolverSettings(Settings):
    """The regularisation and the preconditioner of the normal equations."""

    damping: float = Field(1e-3, ge=0)
    """Damping of the poses, relative to the diagonal (Levenberg, Marquardt)."""

    gradient_weight: float = Field(0.02, ge=0)
    """Weight of the increment's squared gradient, relative to the data; it vanishes at the
    solution."""

    thin_plate_weight: float = Field(0.015, ge=0)
    """Weight of the surface's squared Laplacian, in squared cells, relative to the squared gradient
    that one ray measures: with n rays a node, sqrt(weight / n) cells are smoothed."""

    thin_plate_cells: float = Field(1.2, gt=0)
    """Distance from the surface within which the Laplacian counts, cells: farther off, distances
    have creases."""

    preconditioner_levels: int = Field(6, ge=1)
    """Grids of the surface's preconditioner, each of half the cells of the one before."""

    preconditioner_min_cells: int = Field(8, ge=4)
    """Smallest number of cells along a side of the preconditioner's coarsest grid."""

    max_surface_step_cells: float = Field(3.0, gt=0)
    """Largest movement of the surface in an outer iteration, cells."""


class ConcavitySettings(Settings):
    """The search for points of a ray where other views agree with the pixel's normal."""

    enabled: bool = True
    """Whether a normal that does not fit may be that of another part of the object: the surface
    moves to where other views agree with it along its ray, or recedes where views see free space,
    and in the end it does not count. Wrong where poses are several degrees wrong on finer grids."""

    min_residual: float = Field(0.26, gt=0)
    """Length of a normal's residual from which a pixel is an occlusion suspect."""

    max_suspect_fraction: float = Field(0.05, gt=0, le=1)
    """Largest fraction of a view's pixels that is examined."""

    samples_in_front: int = Field(12, ge=1)
    """Points of a ray in front of the surface."""

    samples_behind: int = Field(24, ge=1)
    """Points of a ray behind the surface."""

    sample_distance_cells: float = Field(0.25, gt=0)
    """Distance of neighbouring points, cells."""

    normal_sigma: float = Field(0.14, gt=0)
    """Standard deviation of the normals of one point in several views, radians."""

    mask_margin_px: float = Field(3.0, ge=0)
    """Largest distance outside a mask at which a point may still belong to the object, pixels."""

    min_visible_cosine: float = Field(0.15, ge=0, lt=1)
    """Smallest cosine between a normal and the direction to a camera that may see it."""

    min_votes: float = Field(2.5, gt=0)
    """Smallest number of views that must agree."""

    votes_margin: float = Field(0.5, ge=0)
    """Votes by which the best point must exceed `votes_ratio` times those at the surface."""

    votes_ratio: float = Field(1.3, ge=1)
    """Factor by which the votes of the best point must exceed those at the surface."""

    near_best_fraction: float = Field(0.9, gt=0, le=1)
    """Fraction of the most votes at which the nearest point is taken."""

    min_samples_away: int = Field(2, ge=1)
    """Smallest distance of the point from the surface, samples: nearer ones are left to the
    normals' own residuals."""

    min_violating_views: int = Field(3, ge=1)
    """Views that must see a surface point for a free-space violation."""

    max_supporting_votes: float = Field(1.0, gt=0)
    """Votes for a surface point below which it may be a free-space violation."""

    visibility_offset_cells: float = Field(0.5, ge=0)
    """Height above the surface at which visibility is tested, cells."""

    max_displacement_cells: float = Field(0.7, gt=0)
    """Largest target displacement of the surface in a step, cells."""

    displacement_weight: float = Field(0.35, gt=0)
    """Residual of a normal, radians, as which one pixel of displacement counts."""


class StereoSettings(Settings):
    """Points on which the normals of several views agree, found by a plane sweep."""

    enabled: bool = True
    """Whether the surface should pass through such points where normals do not fit each other: they
    say where it is however much all normals err in the same way."""

    min_normal_residual_deg: float = Field(9.0, ge=0)
    """Median residual of normals on the second grid, degrees, up to which no points are looked for:
    normals that fit each other place the surface better."""

    interval: int = Field(4, ge=1)
    """Outer iterations on finer grids after which points are looked for anew."""

    reduction: int = Field(4, ge=1)
    """Side of the squares of pixels that are averaged for the first sweep, which searches whole
    rays."""

    reduction_local: int = Field(2, ge=1)
    """The same for later sweeps, which search near the surface."""

    detail_px: float = Field(3.0, gt=0)
    """Standard deviation of the Gaussian average that is subtracted from normals to leave their
    detail, averaged pixels."""

    window_px: int = Field(3, ge=1)
    """Pixels on each side of the middle of a window that is compared, averaged pixels."""

    step_px: float = Field(1.0, gt=0)
    """Distance of neighbouring points of a ray, in widths of an averaged pixel at the object."""

    local_steps: int = Field(12, ge=2)
    """Points before and behind the surface in later sweeps."""

    neighbours: int = Field(8, ge=2)
    """Largest number of views that each view is compared with, the nearest ones."""

    min_angle_deg: float = Field(4.0, ge=0)
    """Smallest angle between neighbours, as seen from the object, degrees."""

    max_angle_deg: float = Field(50.0, gt=0)
    """Largest angle between neighbours, degrees."""

    best_views: int = Field(3, ge=1)
    """Neighbours that count at a point, those that agree best: others may not see it."""

    normal_sigma: float = Field(0.3, gt=0)
    """Standard deviation of the difference of two views' normals of one point, radians."""

    min_window_fraction: float = Field(0.4, ge=0, le=1)
    """Smallest fraction of a window that must be visible in both views."""

    min_score: float = Field(0.2, ge=0, le=1)
    """Smallest agreement at which a pixel has a distance."""

    max_outside: float = Field(0.1, ge=0)
    """Largest distance outside the current surface at which points are looked for, normalised
    units."""

    consistency_px: float = Field(1.5, gt=0)
    """Largest difference of the distances of two views that agree on a point, averaged pixels."""

    min_agreeing: int = Field(2, ge=1)
    """Smallest number of neighbours that must agree on a point."""

    points: int = Field(6000, ge=100)
    """Points of each view that are kept."""

    points_per_pixel: float = Field(0.25, gt=0)
    """Points drawn in an outer iteration for each pixel drawn."""

    share: float = Field(3.0, ge=0)
    """Weight of all points together, relative to all normals, when a point is `sigma_px` off."""

    sigma_px: float = Field(1.0, gt=0)
    """Standard deviation of points, pixels."""

    max_normal_residual: float = Field(0.15, gt=0)
    """Largest residual of normals, radians, that the weight of points grows with."""


class OutlierViewSettings(Settings):
    """The search for new poses of outlier views."""

    residual_ratio: float = Field(2.0, gt=1)
    """Ratio of a view's median residual to that of all views from which it is an outlier."""

    max_views: int = Field(3, ge=0)
    """Largest number of outlier views that are relocalised after a grid, the worst first."""

    rotations_deg: tuple[float, ...] = (12.0, 25.0)
    """Rotations of the initial poses about each of 14 axes, degrees."""

    steps: int = Field(10, ge=1)
    """Gauss-Newton steps of the pose from each initial pose."""

    pixels: int = Field(1500, ge=100)
    """Pixels drawn in each of these steps."""

    fixed_bias_cells: Literal[32, 64, 128, 256, 512] = 64
    """Largest grid, in cells along a side, on which these steps estimate no normal biases and no
    contour offsets."""

    max_residual_ratio: float = Field(0.7, gt=0, le=1)
    """Largest ratio of a new pose's residual to the old one's at which it is taken."""


class ScheduleSettings(Settings):
    """When the iterations on a grid end."""

    converged_rotation_deg: float = Field(1.0, gt=0)
    """Largest rotation of a camera in a step that ends the iterations on the coarsest grid,
    degrees."""

    patience: float = Field(3.0, ge=1)
    """Largest number of iterations on a grid, relative to `iterations`."""

    window: int = Field(2, ge=1)
    """Iterations over which the normals' residual must fall for a further one."""

    max_remaining: float = Field(0.95, gt=0, le=1)
    """Largest fraction of the residual that those iterations may leave for a further one."""

    max_remaining_finest: float = Field(0.98, gt=0, le=1)
    """Value of `max_remaining` on the finest grid."""

    full_steps: int = Field(5, ge=1)
    """Full steps on the finest grid. Of those after them only 1/2, 1/3, ... is done, which averages
    their solutions over the draws of pixels (Robbins and Monro, 1951)."""


class AcceptanceSettings(Settings):
    """Bounds of a result beyond which the views do not fit one surface."""

    max_normal_residual_deg: float = Field(25.0, gt=0)
    """Largest median residual of normals, of all views and of each, degrees."""

    max_contour_residual_px: float = Field(6.0, gt=0)
    """Largest robust standard deviation of contours, pixels."""

    min_hit_fraction: float = Field(0.85, ge=0, le=1)
    """Smallest fraction of mask pixels whose rays must meet the surface."""

    max_rotation_change_deg: float = Field(1.0, gt=0)
    """Largest rotation of a camera in the last step, degrees."""


class CompletionSettings(Settings):
    """The part of the surface that no camera observes."""

    draws: int = Field(3, ge=1)
    """Draws of pixels that together meet every observed cell."""

    dilation_cells: int = Field(2, ge=0)
    """Cells around a ray's hit that count as observed."""

    diffusion_steps: int = Field(60, ge=0)
    """Steps of diffusion of the unobserved values."""

    sweeps: int = Field(12, ge=0)
    """Sweeps of reinitialisation after the diffusion."""


class CovarianceSettings(Settings):
    """The covariances of the poses."""

    patch_size: float = Field(0.2, gt=0)
    """Side of image patches whose errors count as independent, normalised units at the object."""

    inflation: float = Field(7.0, gt=0)
    """Factor of the variances for what patches share and the surface has absorbed: on ten synthetic
    captures the squared errors were 4.7 to 10 times what the sandwich alone expects."""


class RefineSettings(Settings):
    """Poses and a grid SDF together, by Gauss-Newton on the normal maps and contours."""

    deprecated_names: ClassVar[dict[str, str]] = {
        "bias_deg": "priors.bias_field_deg",
        "flattening": "priors.normal_tilt_bias",
        "open_hollows": "concavities.enabled",
    }

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs; `auto` takes a GPU when there is one."""

    exclude_views: tuple[str, ...] = ()
    """Views that are held out."""

    heldout: float = Field(0.0, ge=0, le=0.5)
    """Fraction of the blocks of pixels of each view that is left out, for `train` to judge surfaces
    by."""

    learn_poses: bool = True
    """Whether poses are refined; otherwise they stay as registered and the surface alone is."""

    learn_focal: bool = False
    """Whether a common factor of all focal lengths is estimated."""

    cells: Literal[32, 64, 128, 256, 512] | None = None
    """Cells of the finest grid along a side of [-1, 1]^3; None chooses as many as the pixels are
    worth, 512 at most."""

    cell_pixels: float = Field(0.7, gt=0)
    """Largest width of a cell of the finest grid, in pixels at the object, where `cells` is None
    (128 cells at least)."""

    coarsest_cells: Literal[16, 32, 64, 128, 256, 512] = 64
    """Cells of the first grid."""

    iterations: tuple[int, int, int] = (6, 8, 10)
    """Outer iterations on the coarsest grid, on those between, and on the finest; `schedule`
    says when there are more."""

    pixels: int | None = Field(None, ge=100)
    """Pixels drawn from each view in an outer iteration on the finest grid; None takes as many as
    the views have on average, within the bounds of `sampling`."""

    min_view_pixels: int = Field(50, ge=1)
    """Smallest number of object pixels that a view must show."""

    conjugate_gradients: int = Field(50, ge=5)
    """Iterations of the linear solver."""

    seed: int = Field(0, ge=0)
    """Seed of the draws."""

    deterministic: bool = False
    """Whether the same run on the same machine has the same results to the last bit, which is
    slower on a GPU. On a CPU it always has."""

    visual_hull: VisualHullSettings = VisualHullSettings()
    """The surface's start."""

    narrow_band: NarrowBandSettings = NarrowBandSettings()
    """The surface's grid."""

    sampling: SamplingSettings = SamplingSettings()
    """Pixels and contour points of an iteration."""

    residuals: ResidualSettings = ResidualSettings()
    """Residuals and derivatives."""

    weights: RobustWeightSettings = RobustWeightSettings()
    """Robust weights."""

    priors: PriorSettings = PriorSettings()
    """Errors of normals and masks."""

    solver: LinearSolverSettings = LinearSolverSettings()
    """Normal equations."""

    concavities: ConcavitySettings = ConcavitySettings()
    """Concavities that the visual hull fills, and occlusions."""

    stereo: StereoSettings = StereoSettings()
    """Points on which several views agree."""

    outlier_views: OutlierViewSettings = OutlierViewSettings()
    """Search for new poses of outlier views."""

    schedule: ScheduleSettings = ScheduleSettings()
    """Termination of the iterations on each grid."""

    acceptance: AcceptanceSettings = AcceptanceSettings()
    """When a result is refused."""

    completion: CompletionSettings = CompletionSettings()
    """Unobserved surface."""

    covariance: CovarianceSettings = CovarianceSettings()
    """Uncertainty of the poses."""
