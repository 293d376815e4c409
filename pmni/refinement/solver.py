"""The Gauss-Newton solver: one robust step of all unknowns, poses and surface together."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pmni.config.refinement import RefineSettings
from pmni.errors import LostSurfaceError
from pmni.refinement.concavities import concavity_residuals
from pmni.refinement.normal_equations import NormalEquations, Prior, WeightedResiduals
from pmni.refinement.observations import Observations
from pmni.refinement.report import IterationReport
from pmni.refinement.residuals import (
    Residuals,
    contour_residuals,
    coverage_residuals,
    normal_residuals,
)
from pmni.refinement.state import (
    BIAS,
    OFFSET,
    ROTATION,
    SHARED_UNKNOWNS,
    TRANSLATION,
    VIEW_UNKNOWNS,
    Increment,
    State,
)
from pmni.refinement.stereo import StereoPoints, match_views, stereo_residuals
from pmni.refinement.weights import (
    Scales,
    distance_scale,
    eroded_boundary,
    measure_scales,
    weight_distances,
    weight_normals,
)
from pmni.sdf.grid import GridSDF
from pmni.sdf.narrow_band import resample

GRID_CELLS = 128, 256, 512
"""Cells of the finest grid that are chosen among, where settings do not say."""


def finest_cells(
    observations: Observations, c2w: Float[Tensor, "V 4 4"], cell_pixels: float
) -> int:
    """The fewest of GRID_CELLS whose cells are at most `cell_pixels` pixels wide, or the most."""
    pixel = float(observations.pixel_footprint(c2w[:, :3, 3]).median())
    fitting = (cells for cells in GRID_CELLS[:-1] if 2 / cells <= cell_pixels * pixel)
    return next(fitting, GRID_CELLS[-1])


@dataclass(frozen=True)
class Linearization:
    """The residuals of one draw of pixels and contour points, with their weights."""

    pixels: Int[Tensor, "V P"]
    """Indices of the pixels drawn."""
    contour: Int[Tensor, "V Q"]
    """Indices of the contour points drawn."""
    terms: tuple[WeightedResiduals, ...]
    """Residuals of normals; of contours; of pixels that miss the surface; of stereo points, if any;
    and of occlusion suspects, except on the coarsest grid."""
    scales: Scales
    hit_fraction: float
    """Fraction of the pixels whose rays meet the surface."""

    @property
    def normals(self) -> WeightedResiduals:
        """The residuals of normals."""
        return self.terms[0]

    @property
    def contours(self) -> WeightedResiduals:
        """The residuals of contours."""
        return self.terms[1]


def select_at_most(
    index: Int[Tensor, "V P"], wanted: Bool[Tensor, "V P"], most: int
) -> tuple[Int[Tensor, "V Q"], Bool[Tensor, "V Q"]]:
    """At most `most` wanted entries of each row; and which are, where a row has fewer."""
    selected, columns = wanted.int().topk(most, dim=1)
    return index.gather(1, columns), selected > 0


class GaussNewtonSolver:
    """Holds the state and improves it, one outer iteration at a time.

    Args:
        observations: what the surface is compared with.
        surface: the surface's start.
        c2w: the initial poses.
        settings: of refinement; `cells` and `pixels` may leave the choice to the solver.
    """

    def __init__(
        self,
        observations: Observations,
        surface: GridSDF,
        c2w: Float[Tensor, "V 4 4"],
        settings: RefineSettings,
    ) -> None:
        self.observations, self.settings = observations, settings
        device = observations.device
        self.generator = torch.Generator(device=device).manual_seed(settings.seed)
        self.cells = settings.cells or finest_cells(observations, c2w, settings.cell_pixels)
        self.coarsest = min(settings.coarsest_cells, self.cells)
        band = settings.narrow_band
        start = resample(surface, self.coarsest, device, band.initial_sweeps, band)
        self.state = State.start(start, c2w)
        sampling = settings.sampling
        most = sampling.max_pixels_gpu if device.type == "cuda" else sampling.max_pixels_cpu
        average = len(observations.pixels) // len(observations)
        self.pixels = settings.pixels or min(most, average)
        self.iteration = 0
        self.stereo: StereoPoints | None = None

    def step(self, cells: int, gain: float = 1.0) -> IterationReport:
        """One outer iteration on a grid of `cells`, of which the fraction `gain` is done.

        Raises LostSurfaceError when no ray meets the surface.
        """
        settings, band = self.settings, self.settings.narrow_band
        if cells != self.state.surface.grid.cells:
            device = self.observations.device
            surface = resample(self.state.surface, cells, device, band.resampling_sweeps, band)
            self.state = replace(self.state, surface=surface)
        linearization = self.linearize()
        step = self._solve(linearization)
        scales, hit_fraction = linearization.scales, linearization.hit_fraction
        del linearization  # derivatives take more memory than the surface
        max_cells = settings.solver.max_surface_step_cells
        self.state = self.state.retract(step.scaled(gain), max_cells, band)
        self.iteration += 1
        return IterationReport.of(self.iteration, self.state, step, scales, hit_fraction)

    def _solve(self, linearization: Linearization) -> Increment:
        """The whole Gauss-Newton step."""
        settings = self.settings
        equations = NormalEquations(
            self.state.surface,
            linearization.terms,
            len(self.observations),
            self.prior(linearization),
            self.free_view(),
            torch.tensor(
                [settings.priors.normal_tilt_bias, settings.learn_focal],
                device=self.observations.device,
            ),
            settings.solver,
        )
        return equations.solve(settings.conjugate_gradients)

    def linearize(self) -> Linearization:
        """Residuals and weights at the current state, of newly drawn pixels.

        Raises LostSurfaceError when no ray meets the surface.
        """
        observations, state = self.observations, self.state
        residuals, weights = self.settings.residuals, self.settings.weights
        pixels, points, spread = self._draw()
        normals = normal_residuals(observations, state, pixels, spread, residuals)
        contours = contour_residuals(observations, state, points, residuals)
        hit_fraction = float(normals.valid.mean())
        if hit_fraction == 0:
            raise LostSurfaceError(
                "no pixel of any mask sees the surface: the initial poses are too wrong"
            )
        footprint = observations.pixel_footprint(state.centres).float()
        scales = measure_scales(normals, contours, footprint, weights)
        erosion = eroded_boundary(state.offsets / footprint, scales, weights)
        interior = observations.contour_depth[pixels] > erosion[:, None]
        hit = normals.valid.view_as(pixels) > 0
        normals = normals.restricted_to(interior)
        missed = self._coverage(pixels, interior & ~hit, points.shape[1])
        strength = self._contour_strength(scales, pixels.shape[1], points.shape[1])
        terms = [
            weight_normals(normals, scales, self._converged(scales), weights, residuals),
            weight_distances(contours, strength, footprint, scales.contour, weights),
            weight_distances(missed, strength, footprint, scales.contour, weights),
        ]
        if self.stereo is not None:
            terms.append(self._stereo(self.stereo, pixels.shape[1], scales, footprint))
        concavities = self.settings.concavities
        if self._fine() and concavities.enabled:
            displaced = self._concavities(pixels, normals)
            strength = concavities.displacement_weight**2
            terms.append(weight_distances(displaced, strength, footprint, scales.contour, weights))
        return Linearization(pixels, points, tuple(terms), scales, hit_fraction)

    def _draw(
        self,
    ) -> tuple[Int[Tensor, "V P"], Int[Tensor, "V Q"], Float[Tensor, " K"]]:
        """Pixels, contour points, and how far off the surface normals are compared."""
        observations, sampling = self.observations, self.settings.sampling
        grid = self.state.surface.grid
        count = self.pixels * grid.cells // self.cells
        count = min(self.pixels, max(count, sampling.min_pixels))
        pixels = observations.sample_pixels(count, self.generator)
        contour_count = round(sampling.contour_points_per_pixel * count)
        contour_count = max(sampling.min_contour_points, contour_count)
        points = observations.sample_contour(contour_count, self.generator)
        uniform = torch.rand(pixels.numel(), generator=self.generator, device=pixels.device)
        return pixels, points, (2 * uniform - 1) * grid.spacing

    def _coverage(
        self, pixels: Int[Tensor, "V P"], missing: Bool[Tensor, "V P"], count: int
    ) -> Residuals:
        """Residuals of up to `count` pixels of each view that should meet the surface and miss."""
        most = min(count, max(1, int(missing.sum(1).max())))
        index, _ = select_at_most(pixels, missing, most)
        return coverage_residuals(self.observations, self.state, index, self.settings.residuals)

    def _contour_strength(self, scales: Scales, pixels: int, points: int) -> float:
        """Weight of a squared pixel of contour distance, from the numbers drawn of each view.

        Points of a jittered contour are as correlated as normals: they count less.
        """
        weights = self.settings.weights
        smooth = weights.smooth_contour_px / scales.contour
        jittered = min(1.0, smooth) if self._fine() else 1.0
        share = weights.contour_share * jittered * pixels / points
        return share * (scales.normal / scales.contour) ** 2

    def match_views(self) -> None:
        """Look for points on which views agree: on whole rays at first, then near the surface."""
        settings, local = self.settings.stereo, self.stereo is not None
        self.stereo = match_views(self.observations, self.state, settings, local, self.generator)

    def _stereo(
        self, stereo: StereoPoints, pixels: int, scales: Scales, footprint: Float[Tensor, " V"]
    ) -> WeightedResiduals:
        """Residuals of points on which views agree, of a draw of `pixels` of each view."""
        settings = self.settings.stereo
        views, points = stereo.points.shape[:2]
        count = max(1, round(settings.points_per_pixel * pixels))
        device = footprint.device
        index = torch.randint(points, (views, count), generator=self.generator, device=device)
        residuals = stereo_residuals(self.state, stereo, index)
        normal = min(scales.normal, settings.max_normal_residual)
        strength = settings.share * pixels / count * (normal / settings.sigma_px) ** 2
        spread = distance_scale(residuals, footprint, self.settings.weights)
        return weight_distances(residuals, strength, footprint, spread, self.settings.weights)

    def _concavities(self, pixels: Int[Tensor, "V P"], normals: Residuals) -> Residuals:
        """Residuals of occlusion suspects, whose normals do not fit."""
        settings = self.settings.concavities
        suspect = (normals.valid * normals.lengths() > settings.min_residual).view_as(pixels)
        most = max(1, round(settings.max_suspect_fraction * pixels.shape[1]))
        index, chosen = select_at_most(pixels, suspect, most)
        residuals = self.settings.residuals
        displaced = concavity_residuals(self.observations, self.state, index, settings, residuals)
        return displaced.restricted_to(chosen)

    def free_view(self) -> Bool[Tensor, "16"]:
        """Which unknowns of the views are free: biases and offsets only on the finer grids."""
        free = torch.zeros(VIEW_UNKNOWNS, dtype=torch.bool, device=self.observations.device)
        free[ROTATION] = free[TRANSLATION] = self.settings.learn_poses
        free[BIAS] = self._fine() and self.settings.priors.bias_field_deg > 0
        free[OFFSET] = self._fine()
        return free

    def _fine(self) -> bool:
        """Whether the grid is fine enough to blame the observations for what does not fit."""
        return self.state.surface.grid.cells > self.coarsest

    def _converged(self, scales: Scales) -> bool:
        """Whether the surface will not change its shape any more."""
        finest = self.state.surface.grid.cells == self.cells
        enabled = self.settings.concavities.enabled
        return finest and enabled and scales.normal < self.settings.weights.converged_residual

    def prior(self, linearization: Linearization) -> Prior:
        """The prior that biases and contour offsets are near zero."""
        priors, scales = self.settings.priors, linearization.scales
        smooth = self.settings.weights.smooth_contour_px
        views = len(self.observations)
        weight = torch.zeros(views, VIEW_UNKNOWNS, device=self.observations.device)
        value = torch.zeros_like(weight)
        if priors.bias_field_deg > 0:
            normals = (linearization.normals.root_weight**2).sum() / views
            relative = (scales.normal / math.radians(priors.bias_field_deg)) ** 2
            bias_weight = normals * relative / priors.independent_normals
            weight[:, BIAS] = bias_weight.clamp(min=1e-9)
        value[:, BIAS] = self.state.bias.reshape(views, 9)
        contours = (linearization.contours.root_weight**2).sum() / views
        # What the offsets explain already is no longer in the residuals.
        explained = self.state.offsets / self.observations.pixel_footprint(self.state.centres)
        spread = scales.contour**2 + float(explained.square().mean())
        excess = max(spread - smooth**2, priors.min_contour_offset_px**2)
        relative = scales.contour**2 / excess
        offset_weight = contours * relative / priors.independent_contour_points
        weight[:, OFFSET] = offset_weight.clamp(min=1e-9)
        value[:, OFFSET] = self.state.offsets[:, None]
        zero = torch.zeros(SHARED_UNKNOWNS, device=weight.device)
        return Prior(weight, value, zero, zero)
