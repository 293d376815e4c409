"""One Gauss-Newton step: the weighted least squares over all unknowns, by conjugate gradients."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pmni import kernels
from pmni.refinement.residuals import Residuals
from pmni.refinement.state import COMMON_UNKNOWNS, VIEW_UNKNOWNS, Increment
from pmni.runtime.cuda_graphs import repeat
from pmni.sdf.block_grid import BlockGrid
from pmni.sdf.narrow_band import NarrowBandSDF

MEMBRANE = 0.02
"""Weight of the increment's squared slope beside the data's: vanishes at the solution."""
BENDING = 0.015
"""Weight of the surface's squared Laplacian beside the squared slope that a ray measures, in
squared cells: with n rays a node, sqrt(BENDING / n) cells are smoothed."""
BENT = 1.2
"""Cells from the surface within which it counts: farther off, the distance has creases."""
LEVELS = 6
"""Grids that precondition the surface, each of half the cells of the one before."""
FEWEST_CELLS = 8
"""Of the coarsest of them."""


@dataclass(frozen=True)
class WeightedResiduals:
    """Residuals, and their weights' square roots (K,); zero where they do not count."""

    residuals: Residuals
    root_weight: Float[Tensor, "K"]


@dataclass(frozen=True)
class Prior:
    """Quadratic terms weight * (value + increment)^2 of the unknowns of the views and of all."""

    view_weight: Float[Tensor, "V 16"]
    view_value: Float[Tensor, "V 16"]
    common_weight: Float[Tensor, "2"]
    common_value: Float[Tensor, "2"]


class NormalEquations:
    """(J^T W J + priors + membrane) increment = -J^T W r, never formed but for the views' blocks.

    Unknowns that are not free keep an increment of zero.
    """

    def __init__(
        self,
        surface: NarrowBandSDF,
        terms: tuple[WeightedResiduals, ...],
        views: int,
        prior: Prior,
        free_view: Bool[Tensor, "16"],
        free_common: Bool[Tensor, "2"],
        damping: float,
    ) -> None:
        self.grid, self.views, self.prior = surface.grid, views, prior
        self.free_view, self.free_common = free_view.float(), free_common.float()
        in_order = torch.are_deterministic_algorithms_enabled()
        self.one_pass = kernels.chosen(surface.grid.device) and not in_order
        self.rows, self.weights, self.by_view, self.by_common, self.values = [], [], [], [], []
        for term in terms:
            r, w = term.residuals, term.root_weight
            self.rows.append(r.rows.int() if self.one_pass else r.rows)
            self.weights.append(r.weights * w[:, None, None])
            by_view = r.by_view * w[:, None, None] * self.free_view
            self.by_view.append(by_view.reshape(views, -1, VIEW_UNKNOWNS))
            by_common = r.by_common * w[:, None, None] * self.free_common
            self.by_common.append(by_common.reshape(-1, COMMON_UNKNOWNS))
            self.values.append(r.value * w[:, None])
        self.view_blocks = torch.stack([J.transpose(1, 2) @ J for J in self.by_view]).sum(0)
        diagonal = torch.diagonal(self.view_blocks, dim1=1, dim2=2)
        self.view_diagonal = prior.view_weight * self.free_view + damping * diagonal
        self.common_diagonal = prior.common_weight * self.free_common
        self.density = self._density(terms[0])
        near = surface.values.abs() <= BENT * self.grid.spacing
        self.bending = BENDING / 3 / self.grid.spacing**2 * near
        self.bent = self.grid.laplacian(surface.values)
        self._view_inverse = self._inverse(
            self.view_blocks + torch.diag_embed(self.view_diagonal), self.free_view
        )
        common = torch.stack([J.T @ J for J in self.by_common]).sum(0)
        common = common + torch.diag(self.common_diagonal)
        self._common_inverse = self._inverse(common, self.free_common)

    @staticmethod
    def _inverse(blocks: Tensor, free: Tensor) -> Tensor:
        """Inverses of symmetric blocks, scaled to a unit diagonal first; 0 for what is not free."""
        scale = torch.diagonal(blocks, dim1=-2, dim2=-1).double().clamp(min=1e-12).rsqrt()
        scaled = blocks.double() * scale[..., :, None] * scale[..., None, :]
        scaled = scaled + torch.eye(len(free), device=free.device, dtype=torch.float64) * 1e-9
        inverse = torch.linalg.inv(scaled + torch.diag(1 - free.double()))
        inverse = inverse * scale[..., :, None] * scale[..., None, :]
        return (inverse * (free[:, None] * free)).float()

    def _density(self, normals: WeightedResiduals) -> Tensor:
        """The mean diagonal entry that the normals give to a node near the surface."""
        total = (normals.root_weight**2).sum() * 2 / self.grid.spacing**2
        hit = torch.zeros(len(self.grid), device=self.grid.device)
        hit[normals.residuals.rows[normals.root_weight > 0, 0]] = 1
        return total / hit.sum().clamp(min=1)

    def right_side(self) -> Increment:
        """-J^T W r and the priors' parts."""
        gradient = self._transposed([-value for value in self.values])
        views = gradient.views - self.prior.view_weight * self.prior.view_value * self.free_view
        common = (
            gradient.common - self.prior.common_weight * self.prior.common_value * self.free_common
        )
        surface = gradient.surface - self.grid.laplacian(self.bending * self.bent)
        return Increment(surface, views, common)

    def apply(self, x: Increment) -> Increment:
        """The matrix times x."""
        product = self._in_one_pass(x) if self.one_pass else self._transposed(self._changes(x))
        bent = self.grid.laplacian(x.surface)
        membrane = MEMBRANE * self.density * (bent + 1e-3 * x.surface)
        bending = self.grid.laplacian(self.bending * bent)
        return Increment(
            product.surface + membrane + bending,
            product.views + self.view_diagonal * x.views,
            product.common + self.common_diagonal * x.common,
        )

    def _in_one_pass(self, x: Increment) -> Increment:
        """J^T W J x, by a kernel."""
        from pmni.kernels.normal_equations import add_product

        result = self._nothing()
        for term in zip(self.rows, self.weights, self.by_view, self.by_common, strict=True):
            add_product(*parts(x), *term, parts(result))
        return result

    def _changes(self, x: Increment) -> list[Tensor]:
        """J x, of each term."""
        changes = []
        for rows, weights, by_view, by_common in zip(
            self.rows, self.weights, self.by_view, self.by_common, strict=True
        ):
            change = -(weights @ x.surface[rows][..., None])[..., 0]
            change += (by_view @ x.views[..., None]).view_as(change)
            change += (by_common @ x.common).view_as(change)
            changes.append(change)
        return changes

    def _nothing(self) -> Increment:
        device = self.grid.device
        return Increment(
            torch.zeros(len(self.grid), device=device),
            torch.zeros(self.views, VIEW_UNKNOWNS, device=device),
            torch.zeros(COMMON_UNKNOWNS, device=device),
        )

    def _transposed(self, changes: list[Tensor]) -> Increment:
        """J^T times changes of each term's residuals."""
        surface, views, common = parts(self._nothing())
        for change, rows, weights, by_view, by_common in zip(
            changes, self.rows, self.weights, self.by_view, self.by_common, strict=True
        ):
            share = (weights * change[..., None]).sum(1)
            surface.index_add_(0, rows.reshape(-1), -share.reshape(-1))
            views += (by_view.transpose(1, 2) @ change.reshape(self.views, -1, 1))[..., 0]
            common += by_common.T @ change.reshape(-1)
        return Increment(surface, views, common)

    def precondition(self, r: Increment) -> Increment:
        """Surface: the sum of the grids of all sizes (Bramble, Pasciak, Xu, 1990). Views: the
        inverse of their blocks."""
        return Increment(
            multigrid(self.grid, r.surface, LEVELS) / self.density,
            (self._view_inverse @ r.views[..., None])[..., 0],
            self._common_inverse @ r.common,
        )

    def solve(self, iterations: int) -> Increment:
        """So many iterations of preconditioned conjugate gradients from zero."""
        r = self.right_side()
        p = Increment(*(part.clone() for part in parts(self.precondition(r))))
        rz = dot(r, p)
        x = Increment(*(torch.zeros_like(part) for part in parts(r)))

        def iterate() -> None:
            Ap = self.apply(p)
            alpha = rz / dot(p, Ap).clamp(min=1e-30)
            add(x, p, alpha)
            add(r, Ap, -alpha)
            z = self.precondition(r)
            rz_new = dot(r, z)
            beta = rz_new / rz.clamp(min=1e-30)
            for part, new in zip(parts(p), parts(z), strict=True):
                part.mul_(beta).add_(new)
            rz.copy_(rz_new)

        repeat(iterate, iterations, self.grid.device)
        return x


def multigrid(grid: BlockGrid, r: Float[Tensor, "N"], levels: int) -> Float[Tensor, "N"]:
    """sum over the levels of P P^T r, P interpolating from the level's grid."""
    if levels == 1 or grid.cells <= FEWEST_CELLS:
        return r
    return r + grid.prolong(multigrid(grid.coarser, grid.restrict(r), levels - 1))


def parts(x: Increment) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors of an increment."""
    return x.surface, x.views, x.common


def dot(a: Increment, b: Increment) -> Float[Tensor, ""]:
    """The inner product."""
    pairs = zip(parts(a), parts(b), strict=True)
    return torch.stack([(x * y).sum() for x, y in pairs]).sum()


def add(a: Increment, b: Increment, factor: Float[Tensor, ""]) -> None:
    """a <- a + factor b."""
    for part, change in zip(parts(a), parts(b), strict=True):
        part.addcmul_(change, factor)
