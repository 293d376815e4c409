"""Joint refinement of poses and surface: one robust Gauss-Newton step of all unknowns."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pmni.config.refinement import RefineSettings
from pmni.errors import ConvergenceError, LostSurfaceError
from pmni.refinement.concavities import MISLED, concavity_residuals
from pmni.refinement.normal_equations import NormalEquations, Prior, WeightedResiduals
from pmni.refinement.observations import Observations
from pmni.refinement.residuals import contour_residuals, coverage_residuals, normal_residuals
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
from pmni.refinement.weights import (
    EXACT_CONTOUR,
    Scales,
    boundary_erosion,
    measure,
    weighted_distances,
    weighted_normals,
)
from pmni.sdf.grid import GridSDF
from pmni.sdf.narrow_band import resample

CONTOUR_POINTS = 0.075
"""Contour points drawn for each pixel drawn."""
CONTOUR_SHARE = 0.4
"""Weight of all contour points together, relative to all pixels, when both have residuals of their
own usual size: normals are so correlated that many count as one. So are the points of a contour if
it is jittered."""
MOST_MISLED, PUSH = 0.05, 0.35
"""At most this part of the pixels of a view is looked at for hollows; and as how large a residual
of a normal one pixel of a push counts, radians."""
CELL_PIXELS = 0.7
"""Width of the finest grid's cells that is fine enough, in pixels at the object."""
INDEPENDENT_NORMALS, INDEPENDENT_POINTS = 60.0, 150.0
"""How many independent measurements a view's normals, and its contour, amount to: neighbours share
their errors."""
SETTLED = 0.15
"""Usual residual of normals, radians, below which the surface has its shape."""
DAMPING = 1e-3
"""Of the poses, relative (Levenberg, Marquardt)."""
LEAST_OFFSET = 0.05
"""Expected size of the contour offsets of right masks, pixels."""
FEWEST_PIXELS = 2_000
"""Drawn of each view even on coarse grids, if there are so many."""
SWEEPS = 6
"""Of redistancing after a step."""
COARSEST = 64
"""Cells of the first grid."""
STRAY = 2.0
"""Times the usual residual of the normals: a view that is as far off is a stray."""
WORST_NORMAL_DEG, WORST_CONTOUR_PX, FEWEST_HITS, RESTLESS_DEG = 25.0, 6.0, 0.85, 1.0
"""Beyond these the result is not one."""


@dataclass(frozen=True)
class Report:
    """What an outer iteration found and did."""

    iteration: int
    cells: int
    normal_residual_deg: float
    contour_residual_px: float
    worst_view: int
    """Of which the normals fit worst, ..."""
    worst_normal_residual_deg: float
    """... and how badly."""
    hit_fraction: float
    rotation_change_deg: float
    largest_rotation_change_deg: float
    translation_change: float
    surface_change: float
    flattening: float
    focal_factor: float

    @property
    def has_stray(self) -> bool:
        """Whether the normals of a view are much farther off than usual."""
        return self.worst_normal_residual_deg > STRAY * self.normal_residual_deg


def finest_cells(observations: Observations, c2w: Float[Tensor, "V 4 4"]) -> int:
    """The fewest of 128, 256 and 512 that are at most CELL_PIXELS wide, or 512."""
    pixel = float(observations.pixel_footprint(c2w[:, :3, 3]).median())
    return next((cells for cells in (128, 256) if 2 / cells <= CELL_PIXELS * pixel), 512)


@dataclass(frozen=True)
class Linearization:
    """The residuals of one draw of pixels and contour points, with their weights."""

    pixels: Int[Tensor, "V P"]
    contour: Int[Tensor, "V Q"]
    terms: tuple[WeightedResiduals, ...]
    """Of normals; of contours; of the pixels that should see the surface, and do not; of those that
    see another point than the surface's, except on the coarsest grid."""
    scales: Scales
    hit_fraction: float
    """Of the pixels that see the surface."""

    @property
    def normals(self) -> WeightedResiduals:
        """Those of normals."""
        return self.terms[0]

    @property
    def contours(self) -> WeightedResiduals:
        """Those of contours."""
        return self.terms[1]


def some(
    pixels: Int[Tensor, "V P"], wanted: Bool[Tensor, "V P"], most: int
) -> tuple[Int[Tensor, "V Q"], Bool[Tensor, "V Q"]]:
    """At most so many wanted pixels of each view; and which are, where a view has fewer."""
    found, columns = wanted.int().topk(most, dim=1)
    return pixels.gather(1, columns), found > 0


class GaussNewtonSolver:
    """Holds the state and improves it, one outer iteration at a time."""

    def __init__(
        self,
        observations: Observations,
        surface: GridSDF,
        c2w: Float[Tensor, "V 4 4"],
        settings: RefineSettings,
        coarsest: int = COARSEST,
    ) -> None:
        self.observations, self.settings = observations, settings
        device = observations.device
        self.generator = torch.Generator(device=device).manual_seed(settings.seed)
        self.cells = settings.cells or finest_cells(observations, c2w)
        self.coarsest = min(coarsest, self.cells)
        self.state = State.start(resample(surface, self.coarsest, device, sweeps=12), c2w)
        # On the finest grid; coarser ones need fewer.
        most = 20_000 if device.type == "cuda" else 8_000
        self.pixels = settings.pixels or min(most, len(observations.pixels) // len(observations))
        self.iteration = 0

    def step(self, cells: int, gain: float = 1.0) -> Report:
        """One outer iteration on the grid of so many cells, of which the part `gain` is done."""
        device = self.observations.device
        if cells != self.state.surface.grid.cells:
            surface = resample(self.state.surface, cells, device, sweeps=4)
            self.state = replace(self.state, surface=surface)
        now = self.linearize()
        step = self._solution(now)
        scales, hit_fraction = now.scales, now.hit_fraction
        del now  # derivatives take more memory than the surface
        self.state = self.state.retract(step.scaled(gain), SWEEPS)
        self.iteration += 1
        return self._report(scales, hit_fraction, step)

    def _solution(self, now: Linearization) -> Increment:
        """The whole Gauss-Newton step."""
        device = self.observations.device
        equations = NormalEquations(
            self.state.surface,
            now.terms,
            len(self.observations),
            self.prior(now),
            self.free_view(),
            torch.tensor([self.settings.flattening, self.settings.learn_focal], device=device),
            DAMPING,
        )
        return equations.solve(self.settings.conjugate_gradients)

    def linearize(self) -> Linearization:
        """Residuals and weights at the current state, of newly drawn pixels."""
        m, state = self.observations, self.state
        drawn = self.pixels * state.surface.grid.cells // self.cells
        drawn = min(self.pixels, max(drawn, FEWEST_PIXELS))
        pixels = m.sample_pixels(drawn, self.generator)
        count = max(50, round(CONTOUR_POINTS * drawn))
        points = m.sample_contour(count, self.generator)
        uniform = torch.rand(pixels.numel(), generator=self.generator, device=pixels.device)
        spread = (2 * uniform - 1) * state.surface.grid.spacing
        normals = normal_residuals(m, state, pixels, spread)
        contours = contour_residuals(m, state, points)
        hits = float(normals.valid.mean())
        if hits == 0:
            raise LostSurfaceError(
                "no pixel of any mask sees the surface: the initial poses are too wrong"
            )
        sizes = m.pixel_footprint(state.centres).float()
        scales = measure(normals, contours, sizes)
        rim = boundary_erosion(state.offsets / sizes, scales)
        certain = m.contour_depth[pixels] > rim[:, None]
        seen = normals.valid.view_as(pixels) > 0
        normals = normals.only(certain)

        unseen = certain & ~seen
        most = min(count, max(1, int(unseen.sum(1).max())))
        index, _ = some(pixels, unseen, most)
        missed = coverage_residuals(m, state, index)
        jittered = min(1.0, EXACT_CONTOUR / scales.contour) if self._fine() else 1.0
        share = CONTOUR_SHARE * jittered * drawn / count
        strength = share * (scales.normal / scales.contour) ** 2
        terms = [
            weighted_normals(normals, scales, self._settled(scales)),
            weighted_distances(contours, strength, sizes, scales),
            weighted_distances(missed, strength, sizes, scales),
        ]
        if self._fine() and self.settings.open_hollows:
            misled = (normals.valid * normals.lengths() > MISLED).view_as(pixels)
            most = max(1, round(MOST_MISLED * drawn))
            index, chosen = some(pixels, misled, most)
            hollows = concavity_residuals(m, state, index).only(chosen)
            terms.append(weighted_distances(hollows, PUSH**2, sizes, scales))
        return Linearization(pixels, points, tuple(terms), scales, hits)

    def free_view(self) -> Bool[Tensor, "16"]:
        """Which unknowns of the views are free: biases and offsets only on the finer grids."""
        free = torch.zeros(VIEW_UNKNOWNS, dtype=torch.bool, device=self.observations.device)
        free[ROTATION] = free[TRANSLATION] = self.settings.learn_poses
        free[BIAS] = self._fine() and self.settings.bias_deg > 0
        free[OFFSET] = self._fine()
        return free

    def _fine(self) -> bool:
        """Whether the grid is fine enough to blame the observations for what does not fit."""
        return self.state.surface.grid.cells > self.coarsest

    def _settled(self, scales: Scales) -> bool:
        """Whether the surface will not change its shape any more."""
        finest = self.state.surface.grid.cells == self.cells
        return finest and self.settings.open_hollows and scales.normal < SETTLED

    def prior(self, now: Linearization) -> Prior:
        """Biases and offsets are near zero."""
        views = len(self.observations)
        weight = torch.zeros(views, VIEW_UNKNOWNS, device=self.observations.device)
        value = torch.zeros_like(weight)
        if self.settings.bias_deg > 0:
            normals = (now.normals.root_weight**2).sum() / views
            relative = (now.scales.normal / math.radians(self.settings.bias_deg)) ** 2
            weight[:, BIAS] = (normals * relative / INDEPENDENT_NORMALS).clamp(min=1e-9)
        value[:, BIAS] = self.state.bias.reshape(views, 9)
        contours = (now.contours.root_weight**2).sum() / views
        # What the offsets explain already is no longer in the residuals.
        found = self.state.offsets / self.observations.pixel_footprint(self.state.centres)
        spread = now.scales.contour**2 + float(found.square().mean())
        excess = max(spread - EXACT_CONTOUR**2, LEAST_OFFSET**2)
        relative = now.scales.contour**2 / excess
        weight[:, OFFSET] = (contours * relative / INDEPENDENT_POINTS).clamp(min=1e-9)
        value[:, OFFSET] = self.state.offsets[:, None]
        zero = torch.zeros(SHARED_UNKNOWNS, device=weight.device)
        return Prior(weight, value, zero, zero)

    def _report(self, scales: Scales, hit_fraction: float, step: Increment) -> Report:
        turns = torch.rad2deg(torch.linalg.vector_norm(step.views[:, ROTATION], dim=-1))
        shifts = torch.linalg.vector_norm(step.views[:, TRANSLATION], dim=-1)
        return Report(
            iteration=self.iteration,
            cells=self.state.surface.grid.cells,
            normal_residual_deg=math.degrees(scales.normal),
            contour_residual_px=scales.contour,
            worst_view=int(scales.normal_by_view.argmax()),
            worst_normal_residual_deg=math.degrees(float(scales.normal_by_view.max())),
            hit_fraction=hit_fraction,
            rotation_change_deg=float(turns.mean()),
            largest_rotation_change_deg=float(turns.max()),
            translation_change=float(shifts.mean()),
            surface_change=float(step.surface.abs().mean()),
            flattening=float(self.state.flattening),
            focal_factor=float(torch.exp(self.state.log_focal)),
        )


def check_converged(name: str, views: tuple[str, ...], report: Report) -> None:
    """Raise ConvergenceError when the views do not fit one surface after the last iteration."""
    reasons = {
        f"normals are {report.normal_residual_deg:.0f} degrees off": (
            report.normal_residual_deg > WORST_NORMAL_DEG
        ),
        f"those of view {views[report.worst_view]} are {report.worst_normal_residual_deg:.0f}": (
            report.worst_normal_residual_deg > WORST_NORMAL_DEG
        ),
        f"contours are {report.contour_residual_px:.1f} pixels off": (
            report.contour_residual_px > WORST_CONTOUR_PX
        ),
        f"{1 - report.hit_fraction:.0%} of the masks see no surface": (
            report.hit_fraction < FEWEST_HITS
        ),
        f"a camera still turns by {report.largest_rotation_change_deg:.1f} degrees": (
            report.largest_rotation_change_deg > RESTLESS_DEG
        ),
    }
    found = [reason for reason, wrong in reasons.items() if wrong]
    if found:
        raise ConvergenceError(
            f"{name}: the views do not fit one surface ({', '.join(found)}): the initial poses are "
            "too wrong, or a normal map or mask belongs to another view; look at history.csv"
        )
