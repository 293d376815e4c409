"""Settings of `register`."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from pmni.config.base import Settings
from pmni.config.extensions import METHODS


class WorkingViewSettings(Settings):
    """The small views that registration from nothing compares."""

    points: int = Field(500, ge=50)
    """Surface points of each view."""

    object_radius: float = Field(50.0, ge=10)
    """Images are downsampled by the whole number that brings the object's radius closest to this,
    pixels."""

    margin: int = Field(4, ge=1)
    """Border around each view's mask, downsampled pixels."""

    smoothing: float = Field(0.7, ge=0)
    """Standard deviation of the Gaussian filter of the normals, downsampled pixels."""

    eroded_boundary: float = Field(1.5, ge=0)
    """Surface points are at least so far inside the mask, downsampled pixels."""

    min_facing: float = Field(0.3, gt=0, le=1)
    """Least cosine between normal and viewing ray that a pixel's surface area is computed with."""

    depth_discontinuity: float = Field(8.0, gt=0)
    """Change of depth between neighbouring pixels, in pixel footprints, from which on it counts as
    a discontinuity."""

    centre_depth_quantile: float = Field(0.8, gt=0, lt=1)
    """Quantile of the visible surface's depth at which the object's centre is assumed."""

    min_pixels: int = Field(60, ge=1)
    """Fewest usable downsampled pixels of a view."""


class SupportSearchSettings(Settings):
    """Exhaustive search of relative rotations by support functions."""

    rotations: int = Field(30_000, ge=100)
    """Rotations of the grid on SO(3); 30,000 are about 7 degrees apart."""

    directions: int = Field(160, ge=10)
    """Directions on the sphere in which support functions are compared."""

    max_view_angle_deg: float = Field(80.0, gt=0, lt=180)
    """Largest angle between the viewing directions of a pair, degrees."""

    max_facing_z: float = Field(0.1, ge=-1, le=1)
    """A direction faces a camera if its z in the camera frame is less than this."""

    table_cells: int = Field(80, ge=8)
    """Cells along each side of a tabulated support function; 80 are about 2 degrees each."""

    max_body_points: int = Field(3000, ge=100)
    """Most surface points of a view of which support functions are taken."""

    shrinkage: float = Field(8.0, ge=0)
    """A rotation's residual is multiplied by 1 + shrinkage / number of directions compared."""

    candidates: int = Field(200, ge=1)
    """Rotations of each pair that are scored densely."""


class AlignmentSettings(Settings):
    """Gauss-Newton alignment of two views."""

    depth_weight: float = Field(0.3, ge=0)
    """Weight of depths relative to normals: depths are integrated from the normals."""

    silhouette_weight: float = Field(0.5, ge=0)
    """Weight of distances outside the other view's mask."""

    silhouette_sigma: float = Field(1.0, gt=0)
    """Scale of distances outside the mask, downsampled pixels."""

    silhouette_dead_zone: float = Field(0.5, ge=0)
    """Distance outside the mask that costs nothing, downsampled pixels."""

    silhouette_limit: float = Field(15.0, gt=0)
    """Distance outside the mask beyond which the cost is constant, downsampled pixels."""

    min_facing: float = Field(0.1, ge=0, le=1)
    """Least cosine between a moved normal and the direction to the camera that may see it."""

    damping: float = Field(0.01, ge=0)
    """Levenberg-Marquardt damping, relative to the diagonal."""

    max_rotation: float = Field(0.2, gt=0)
    """Longest step of the rotation, radians."""

    max_translation: float = Field(0.19, gt=0)
    """Longest step of the translation, object radii."""


class OverlapSettings(Settings):
    """The dense score of two views under a relative pose."""

    min_facing: float = Field(0.15, ge=0, le=1)
    """Least cosine between a normal and the direction to the camera for a point to be visible."""

    silhouette_tolerance: float = Field(1.0, ge=0)
    """Distance outside the mask that is forgiven, downsampled pixels."""

    silhouette_span: float = Field(4.0, gt=0)
    """Distance beyond the tolerance over which the cost rises to its maximum, downsampled
    pixels."""

    min_visible: float = Field(0.05, gt=0)
    """Least visible share that evidence is divided by."""

    conflict_weight: float = Field(0.7, ge=0)
    """Weight of points that meet another normal at the same depth."""


class AlignmentStage(Settings):
    """One pass of Gauss-Newton over the poses of a pair."""

    sigma_normal: float = Field(gt=0)
    """Scale of differences of normals (chord, about radians)."""

    sigma_depth: tuple[float, float]
    """Scale of differences of depths at the first and last iteration, object radii."""

    iterations: int = Field(ge=1)
    """Gauss-Newton steps."""

    points: int = Field(ge=10)
    """Surface points of each view that are compared."""


class ScoringStage(Settings):
    """One ranking of the poses of a pair."""

    tolerance: float = Field(gt=0)
    """Standard deviation of depths, object radii."""

    angle_deg: float = Field(gt=0)
    """Standard deviation of normals, degrees."""

    points: int = Field(ge=10)
    """Surface points of each view that are compared."""


class PairwiseSettings(Settings):
    """Relative poses of pairs of views: search, score, align, score again."""

    search: SupportSearchSettings = SupportSearchSettings()
    """Search of rotations by support functions."""

    overlap: OverlapSettings = OverlapSettings()
    """The dense score."""

    alignment: AlignmentSettings = AlignmentSettings()
    """Gauss-Newton alignment."""

    first_score: ScoringStage = ScoringStage(tolerance=0.125, angle_deg=30.0, points=250)
    """Ranking of the searched rotations."""

    first_alignment: AlignmentStage = AlignmentStage(
        sigma_normal=0.3, sigma_depth=(0.19, 0.19), iterations=6, points=150
    )
    """Alignment of the best of them."""

    second_score: ScoringStage = ScoringStage(tolerance=0.075, angle_deg=22.0, points=500)
    """Ranking after the first alignment."""

    second_alignment: AlignmentStage = AlignmentStage(
        sigma_normal=0.25, sigma_depth=(0.19, 0.075), iterations=8, points=300
    )
    """Alignment of the best of them."""

    last_score: ScoringStage = ScoringStage(tolerance=0.0625, angle_deg=18.0, points=500)
    """Ranking of the hypotheses that remain."""

    starts: int = Field(16, ge=1)
    """Rotations of each pair that are aligned first."""

    start_separation_deg: float = Field(10.0, ge=0)
    """Least angle between them, degrees."""

    finalists: int = Field(6, ge=1)
    """Poses of each pair that are aligned again."""

    hypotheses: int = Field(4, ge=1)
    """Most hypotheses of each pair that are kept."""

    hypothesis_separation_deg: float = Field(5.0, ge=0)
    """Least angle between the hypotheses of a pair, degrees."""


class GraphSettings(Settings):
    """The graph of pairwise hypotheses, its spanning trees and their averaging."""

    score_levels: tuple[tuple[float, float], ...] = (
        (0.12, 0.2), (0.05, 0.1), (-0.05, 0.0), (-0.2, -0.1),
    )  # fmt: skip
    """Lowest overlap score and normalised score of a reliable hypothesis, from strict to lenient:
    the first level that leaves the graph connected is used, or else all hypotheses are."""

    cycle_tolerance_deg: float = Field(6.0, gt=0)
    """Standard deviation of the angle by which three relative rotations fail to close, degrees."""

    cluster_score: float = Field(0.55)
    """Normalised score above which a pair's first hypothesis precedes all others in most trees."""

    tree_noise: tuple[float, float] = (0.1, 0.3)
    """Scales of the Gumbel noise on the scores of randomised spanning trees, in turn."""

    trees: int = Field(60, ge=0)
    """Randomised spanning trees."""

    translation_scale: float = Field(0.0625, gt=0)
    """Scale of the robust averaging of translations, object radii."""


class ObjectiveSettings(Settings):
    """How well poses of all views explain the views."""

    near_deg: float = Field(75.0, gt=0, lt=180)
    """Views whose axes are closer than this see the same surface; others can only contradict each
    other. Degrees."""

    conflict_weight: float = Field(2.0, ge=0)
    """Weight of points that meet another normal."""

    silhouette_weight: float = Field(2.0, ge=0)
    """Weight of silhouettes whose tangent planes do not meet."""

    far_weight: float = Field(0.5, ge=0)
    """Weight of violations of masks and free space between views that are not near."""

    coarse_tolerance: float = Field(0.1, gt=0)
    """Gap between tangent planes that counts in full before alignment, object radii."""

    fine_tolerance: float = Field(0.02, gt=0)
    """Gap between tangent planes that counts in full after alignment, object radii."""

    depth_tolerance: float = Field(0.0625, gt=0)
    """Standard deviation of depths, object radii."""

    angle_deg: float = Field(18.0, gt=0)
    """Standard deviation of normals, degrees."""

    points: int = Field(200, ge=10)
    """Surface points of each view that are compared."""

    min_visible: float = Field(0.3, gt=0)
    """Added to the sum of a view's visible shares: few partners prove little."""


class JointAlignmentSettings(Settings):
    """Gauss-Newton alignment of all views together."""

    near_deg: float = Field(65.0, gt=0, lt=180)
    """Pairs whose viewing axes are closer than this are compared by their surfaces, degrees."""

    max_partners: int = Field(8, ge=2)
    """Partners of each view: half of them its nearest ones, the others spread over the rest."""

    sigma_normal: float = Field(0.15, gt=0)
    """Scale of differences of normals (chord, about radians)."""

    sigma_depth: tuple[float, float] = (0.15, 0.075)
    """Scale of differences of depths at the first and last iteration, object radii."""

    sigma_silhouette: tuple[float, float] = (0.005, 0.0015)
    """Scale of the tangency of silhouettes at the first and last iteration, object radii."""

    silhouette_robust_scale: float = Field(0.05, gt=0)
    """Where the robust weights of the tangency fall off, object radii."""

    sigma_scale: float = Field(0.05, gt=0)
    """Standard deviation of a step of the views' depth scales."""

    points: int = Field(250, ge=10)
    """Surface points of each view that are compared."""

    iterations: int = Field(8, ge=1)
    """Gauss-Newton steps of all views."""

    view_iterations: int = Field(3, ge=1)
    """Gauss-Newton steps of a single view."""

    damping: float = Field(1e-3, ge=0)
    """Levenberg-Marquardt damping, relative to the diagonal."""

    max_rotation: float = Field(0.15, gt=0)
    """Longest step of a rotation, radians."""

    max_translation: float = Field(0.2, gt=0)
    """Longest step of a translation, object radii."""

    max_scale: float = Field(0.1, gt=0)
    """Largest relative step of a view's depth scale."""


class ReassignmentSettings(Settings):
    """Moving single views to better poses (iterated conditional modes)."""

    min_gain: float = Field(0.02, ge=0)
    """Least gain of a view's objective for which the view is moved."""

    separation_deg: float = Field(6.0, gt=0)
    """Least angle between the pose candidates of a view, degrees."""

    candidates: int = Field(12, ge=1)
    """Pose candidates of a view."""

    refined: int = Field(2, ge=1)
    """Pose candidates that are refined before they are compared."""

    max_deficit: float = Field(0.2, ge=0)
    """Candidates whose objective is lower by more than this are not refined."""


class TurntableSettings(Settings):
    """Views that turn about one axis."""

    min_axis_share: float = Field(0.5, ge=0, le=1)
    """Share of the votes for a common axis from which on turntables are searched."""

    consistent_deg: float = Field(12.0, gt=0)
    """Largest angle between a relative rotation and one about the common axis, degrees."""

    off_axis_deg: float = Field(5.0, gt=0)
    """Largest 90th percentile of the views' angles off the axis of a turntable, degrees."""

    off_step: float = Field(0.35, gt=0)
    """Largest 90th percentile of deviations from equal steps, fraction of a step."""

    max_steps: int = Field(6, ge=1)
    """Views that are further apart than so many steps are not compared."""

    axes: int = Field(800, ge=10)
    """Axes on the sphere that are searched when the order is given; 800 are 7 degrees apart."""

    tried_axes: int = Field(4, ge=1)
    """Axes that are kept from that search."""

    axis_separation_deg: float = Field(18.0, gt=0)
    """Least angle between them, degrees."""

    elevations_deg: tuple[float, ...] = (0.0, 15.0, 30.0, 45.0)
    """Elevations at which cameras that are held upright are tried, degrees."""

    depth_tolerance: float = Field(0.15, gt=0)
    """Standard deviation of depths before alignment, object radii."""

    angle_deg: float = Field(10.0, gt=0)
    """Standard deviation of normals, degrees."""

    conflict_weight: float = Field(5.0, ge=0)
    """Weight of the share of points that meet another normal."""

    alignment_iterations: int = Field(2, ge=1)
    """Gauss-Newton steps before a circular ordering is judged."""

    alignment_tolerance: float = Field(0.04, gt=0)
    """Gap between tangent planes that counts in full when orderings are judged, object radii."""

    neighbours: int = Field(16, ge=0)
    """Orderings next to the best one that are judged in each round."""

    rounds: int = Field(6, ge=0)
    """Most rounds of moving to a better neighbour."""

    support_scale: float = Field(0.075, gt=0)
    """Scale of the robust weights of support functions, object radii."""

    starts: int = Field(80, ge=1)
    """Random starts of the relaxed quadratic assignment (an eighth of them beyond 24 views)."""

    polished: int = Field(4, ge=1)
    """Orderings that a local search improves."""


class AmbiguitySettings(Settings):
    """Sides of the object that look alike, whose views were confused."""

    symmetries: int = Field(3, ge=0)
    """Symmetry transforms that are tried."""

    same_deg: float = Field(15.0, gt=0)
    """Largest angle between equal symmetry transforms; twice as much counts as none. Degrees."""

    centres: int = Field(400, ge=1)
    """Most confident hypotheses around which clusters of transforms are sought."""

    min_support: float = Field(0.15, ge=0)
    """Least confidence of a transform, relative to that of the poses."""

    splits: int = Field(3, ge=0)
    """Divisions of the views into two groups that are tried with each transform, by silhouettes and
    by surfaces."""

    single_views: int = Field(4, ge=0)
    """Worst single views that are tried with each transform."""

    rounds: int = Field(4, ge=0)
    """Most rounds of moving views."""

    kept: int = Field(4, ge=0)
    """Pose sets that are kept besides the best one."""


class MultiviewSettings(Settings):
    """Poses of all views from the graph of pairs."""

    graph: GraphSettings = GraphSettings()
    """Spanning trees and averaging."""

    objective: ObjectiveSettings = ObjectiveSettings()
    """The objective by which pose sets are ranked."""

    joint: JointAlignmentSettings = JointAlignmentSettings()
    """Alignment of all views together."""

    reassignment: ReassignmentSettings = ReassignmentSettings()
    """Moving single views."""

    turntable: TurntableSettings = TurntableSettings()
    """Turntables, and their uniform steps."""

    ambiguity: AmbiguitySettings = AmbiguitySettings()
    """Sides that look alike."""

    aligned_sets: int = Field(6, ge=1)
    """Pose sets from spanning trees that are aligned."""

    reassigned_sets: int = Field(2, ge=1)
    """Pose sets among the aligned ones whose single views may move."""

    reassignment_rounds: int = Field(2, ge=0)
    """Most rounds of moving single views and aligning all."""

    candidates: int = Field(4, ge=1)
    """Most candidates that are passed on to verification."""

    ordered_sets: int = Field(2, ge=1)
    """Uniform turntables in the given order that are kept."""

    ambiguous_sets: int = Field(3, ge=1)
    """Pose sets with views moved between similar sides that are kept."""

    separation_deg: float = Field(12.0, gt=0)
    """Angle by which two pose sets differ in at least one view, degrees."""

    order_reach: int = Field(3, ge=1)
    """Views that many places apart are neighbours in a given order."""


class VerificationSettings(Settings):
    """The test of candidates against one common surface, and when poses are refused."""

    probes: int = Field(400, ge=10)
    """Pixels of each view whose normals are compared with the surface's."""

    saturation_deg: float = Field(40.0, gt=0)
    """Angle between normals from which on the consistency is 0, degrees."""

    separation_deg: float = Field(12.0, gt=0)
    """Angle by which a view's poses differ in different candidates, degrees."""

    pixels: int = Field(600, ge=50)
    """Pixels of each view in an outer iteration of refinement."""

    conjugate_gradients: int = Field(30, ge=1)
    """Iterations of the linear solver in refinement."""

    coarse_pixels: int = Field(300, ge=50)
    """Pixels of each view in a coarse trial."""

    coarse_conjugate_gradients: int = Field(15, ge=1)
    """Iterations of the linear solver in a coarse trial."""

    leading: int = Field(2, ge=1)
    """Most candidates that are tried further after the coarse trial."""

    max_deficit: float = Field(0.2, ge=0)
    """Candidates whose consistency is lower than the best one's by more are not tried further."""

    runner_up_margin: float = Field(0.1, ge=0)
    """A runner-up that is behind by more is not refined on the finer grid."""

    accept: float = Field(0.8, ge=0, le=1)
    """Consistency from which on no further candidates are looked for."""

    accept_about_axis: float = Field(0.45, ge=0, le=1)
    """Value of `accept` where the pairs suggest that the views rotate about one axis."""

    reject: float = Field(0.25, ge=0, le=1)
    """Candidates with a lower consistency are not refined further."""

    outlier_ratio: float = Field(0.7, ge=0, le=1)
    """A view whose consistency is less than this part of the median is an outlier: it is moved, and
    if it remains one, the poses are refused."""

    turntable_outlier_ratio: float = Field(0.5, ge=0, le=1)
    """Value of `outlier_ratio` for uniform turntables, whose views are not moved."""

    searched_outliers: int = Field(3, ge=0)
    """Most outliers for which all poses around the object are searched."""

    doubtful_loss: float = Field(0.025, ge=0)
    """A view that loses less consistency on another side of the object may belong there."""

    rounds: int = Field(4, ge=0)
    """Most rounds of moving views on the coarsest grid."""

    last_rounds: int = Field(2, ge=0)
    """Most rounds of moving views on the finer grid."""

    converged_gain: float = Field(0.03, ge=0)
    """Gain of a round from which on refinement goes on although no view moves."""

    min_consistency: float = Field(0.45, ge=0, le=1)
    """Least mean consistency of accepted poses; half of it for each view."""

    min_consistency_few_views: float = Field(0.6, ge=0, le=1)
    """Least mean consistency of few views that are no uniform turntable."""

    min_margin: float = Field(0.02, ge=0)
    """Least margin of the best candidate over a different one; it grows below `few_views`."""

    few_views: int = Field(10, ge=2)
    """Fewer views than this are few: they are explained more easily."""

    turntable_margin_factor: float = Field(0.5, ge=0)
    """Factor of the least margin for uniform turntables."""

    min_contour_ratio: float = Field(1.5, gt=1)
    """Where the margin is too small, the candidate whose contours are closer to the surface's
    silhouette by this factor is the better one."""

    contour_significance: float = Field(3.0, ge=0)
    """Standard errors over the views that such a factor has to be significant by."""

    max_neighbour_inconsistency: float = Field(1.4, ge=1)
    """Largest ratio of disagreement with neighbours to disagreement with farther views."""

    min_rotational_symmetry_score: float = Field(0.35, ge=0)
    """If turning one view of a pair loses a smaller part of the overlap, the object is one of
    revolution."""

    min_symmetry_loss: float = Field(0.04, ge=0)
    """If turning all views about an axis loses less consistency, it is an axis of revolution."""

    near_symmetry_loss: float = Field(0.25, ge=0)
    """Below this loss, axes around the one that was tried are tried, too."""

    search_rolls: int = Field(12, ge=1)
    """Rolls about the line of sight in the global pose search."""

    search_starts: int = Field(24, ge=1)
    """Poses of the global pose search that are refined."""


class RegisterSettings(Settings):
    """Method and parameters of the initial poses."""

    deprecated_values: ClassVar[Mapping[str, Mapping[Any, Any]]] = {
        "method": {"ring": "turntable", "free": "from_scratch"}
    }

    method: str = "turntable"
    """`reference`: the reference poses; `noisy`: these with noise; `turntable`: an ideal turntable
    circle; `from_scratch`: found from the normal maps and masks alone; or a registered method of
    another package."""

    rotation_noise: float = Field(0.0, ge=0)
    """`noisy`: standard deviation of the rotation about the object, degrees for each axis."""

    translation_noise: float = Field(0.0, ge=0)
    """`noisy`: standard deviation of the camera centre, fraction of the camera distance."""

    elevation: float = Field(25.0, gt=-90, lt=90)
    """`turntable`: elevation of the cameras, degrees."""

    radius: float | None = Field(None, gt=0)
    """`turntable`: distance from the object, normalised units; None takes it from the masks'
    size."""

    direction: Literal["counterclockwise", "clockwise"] = "counterclockwise"
    """`turntable`: how the cameras go round the object, seen from above."""

    view_error: tuple[float, float] = (0.0, 0.0)
    """`turntable`: each view is turned by an angle in this range (degrees), in tilt and azimuth."""

    distance_error: float = Field(0.0, ge=0)
    """`turntable`: standard deviation of an error of each view's distance, fraction."""

    turntable: bool | None = None
    """`from_scratch`: whether the views are equal steps of a full turn, in any order; None: find
    out."""

    ordered: bool = False
    """`from_scratch`: each view is a neighbour of those before and after it, and the last of the
    first."""

    seed: int = Field(0, ge=0)
    """Seed of the errors, and of the search of `from_scratch`."""

    working_views: WorkingViewSettings = WorkingViewSettings()
    """`from_scratch`: the downsampled views."""

    pairwise: PairwiseSettings = PairwiseSettings()
    """`from_scratch`: relative poses of pairs."""

    multiview: MultiviewSettings = MultiviewSettings()
    """`from_scratch`: poses of all views from those of pairs."""

    verification: VerificationSettings = VerificationSettings()
    """`from_scratch`: the test of candidates."""

    @field_validator("method")
    @classmethod
    def _is_registered(cls, value: str) -> str:
        return METHODS.check(value)

    @field_validator("view_error")
    @classmethod
    def _is_a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] <= value[1] < 90:
            raise ValueError("must be [lowest, highest] in degrees, from 0 to below 90")
        return value
