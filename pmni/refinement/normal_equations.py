"""One Gauss-Newton step: the weighted least squares over all unknowns, by conjugate gradients."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pmni import kernels
from pmni.refinement.residuals import Residuals
from pmni.refinement.state import SHARED_UNKNOWNS, VIEW_UNKNOWNS, Increment
from pmni.runtime.cuda_graphs import repeat
from pmni.sdf.block_grid import BlockGrid
from pmni.sdf.narrow_band import NarrowBandSDF

GRADIENT_WEIGHT = 0.02
"""Weight of the increment's squared slope beside the data's: vanishes at the solution."""
THIN_PLATE_WEIGHT = 0.015
"""Weight of the surface's squared Laplacian beside the squared slope that a ray measures, in
squared cells: with n rays a node, sqrt(THIN_PLATE_WEIGHT / n) cells are smoothed."""
THIN_PLATE_DISTANCE = 1.2
"""Cells from the surface within which it counts: farther off, the distance has creases."""
LEVELS = 6
"""Grids that precondition the surface, each of half the cells of the one before."""
FEWEST_CELLS = 8
"""Of the coarsest of them."""


@dataclass(frozen=True)
class WeightedResiduals:
    """Residuals, and their weights' square roots (K,); zero where they do not count."""

    residuals: Residuals
    root_weight: Float[Tensor, " K"]


@dataclass(frozen=True)
class Prior:
    """Quadratic terms weight * (value + increment)^2 of the unknowns of the views and of all."""

    view_weight: Float[Tensor, "V 16"]
    view_value: Float[Tensor, "V 16"]
    shared_weight: Float[Tensor, "2"]
    shared_value: Float[Tensor, "2"]


class NormalEquations:
    """(J^T W J + priors + regularizers) increment = -J^T W r, formed for the views' blocks alone.

    Unknowns that are not free keep an increment of zero.
    """

    def __init__(
        self,
        surface: NarrowBandSDF,
        terms: tuple[WeightedResiduals, ...],
        views: int,
        prior: Prior,
        free_view: Bool[Tensor, "16"],
        free_shared: Bool[Tensor, "2"],
        damping: float,
    ) -> None:
        self.grid, self.views, self.prior = surface.grid, views, prior
        self.free_view, self.free_shared = free_view.float(), free_shared.float()
        in_order = torch.are_deterministic_algorithms_enabled()
        self.one_pass = kernels.use_triton(surface.grid.device) and not in_order
        self.rows, self.weights, self.view_jacobian, self.shared_jacobian, self.values = (
            [],
            [],
            [],
            [],
            [],
        )
        for term in terms:
            r, w = term.residuals, term.root_weight
            self.rows.append(r.rows.int() if self.one_pass else r.rows)
            self.weights.append(r.weights * w[:, None, None])
            view_jacobian = r.view_jacobian * w[:, None, None] * self.free_view
            self.view_jacobian.append(view_jacobian.reshape(views, -1, VIEW_UNKNOWNS))
            shared_jacobian = r.shared_jacobian * w[:, None, None] * self.free_shared
            self.shared_jacobian.append(shared_jacobian.reshape(-1, SHARED_UNKNOWNS))
            self.values.append(r.value * w[:, None])
        self.view_blocks = torch.stack([J.transpose(1, 2) @ J for J in self.view_jacobian]).sum(0)
        diagonal = torch.diagonal(self.view_blocks, dim1=1, dim2=2)
        self.view_diagonal = prior.view_weight * self.free_view + damping * diagonal
        self.shared_diagonal = prior.shared_weight * self.free_shared
        self.density = self._density(terms[0])
        near = surface.values.abs() <= THIN_PLATE_DISTANCE * self.grid.spacing
        self.bending = THIN_PLATE_WEIGHT / 3 / self.grid.spacing**2 * near
        self.bent = self.grid.laplacian(surface.values)
        self._view_inverse = self._inverse(
            self.view_blocks + torch.diag_embed(self.view_diagonal), self.free_view
        )
        shared = torch.stack([J.T @ J for J in self.shared_jacobian]).sum(0)
        shared = shared + torch.diag(self.shared_diagonal)
        self._shared_inverse = self._inverse(shared, self.free_shared)

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

    def rhs(self) -> Increment:
        """-J^T W r and the priors' parts."""
        gradient = self._transposed([-value for value in self.values])
        views = gradient.views - self.prior.view_weight * self.prior.view_value * self.free_view
        shared = (
            gradient.shared - self.prior.shared_weight * self.prior.shared_value * self.free_shared
        )
        surface = gradient.surface - self.grid.laplacian(self.bending * self.bent)
        return Increment(surface, views, shared)

    def apply(self, x: Increment) -> Increment:
        """The matrix times x."""
        product = self._in_one_pass(x) if self.one_pass else self._transposed(self._changes(x))
        bent = self.grid.laplacian(x.surface)
        gradient_term = GRADIENT_WEIGHT * self.density * (bent + 1e-3 * x.surface)
        bending = self.grid.laplacian(self.bending * bent)
        return Increment(
            product.surface + gradient_term + bending,
            product.views + self.view_diagonal * x.views,
            product.shared + self.shared_diagonal * x.shared,
        )

    def _in_one_pass(self, x: Increment) -> Increment:
        """J^T W J x, by a kernel."""
        from pmni.kernels.normal_equations import add_product

        result = self._nothing()
        for term in zip(
            self.rows, self.weights, self.view_jacobian, self.shared_jacobian, strict=True
        ):
            add_product(*parts(x), *term, parts(result))
        return result

    def _changes(self, x: Increment) -> list[Tensor]:
        """J x, of each term."""
        changes = []
        for rows, weights, view_jacobian, shared_jacobian in zip(
            self.rows, self.weights, self.view_jacobian, self.shared_jacobian, strict=True
        ):
            change = -(weights @ x.surface[rows][..., None])[..., 0]
            change += (view_jacobian @ x.views[..., None]).view_as(change)
            change += (shared_jacobian @ x.shared).view_as(change)
            changes.append(change)
        return changes

    def _nothing(self) -> Increment:
        device = self.grid.device
        return Increment(
            torch.zeros(len(self.grid), device=device),
            torch.zeros(self.views, VIEW_UNKNOWNS, device=device),
            torch.zeros(SHARED_UNKNOWNS, device=device),
        )

    def _transposed(self, changes: list[Tensor]) -> Increment:
        """J^T times changes of each term's residuals."""
        surface, views, shared = parts(self._nothing())
        for change, rows, weights, view_jacobian, shared_jacobian in zip(
            changes, self.rows, self.weights, self.view_jacobian, self.shared_jacobian, strict=True
        ):
            share = (weights * change[..., None]).sum(1)
            surface.index_add_(0, rows.reshape(-1), -share.reshape(-1))
            views += (view_jacobian.transpose(1, 2) @ change.reshape(self.views, -1, 1))[..., 0]
            shared += shared_jacobian.T @ change.reshape(-1)
        return Increment(surface, views, shared)

    def precondition(self, r: Increment) -> Increment:
        """Surface: the sum of the grids of all sizes (Bramble, Pasciak, Xu, 1990). Views: the
        inverse of their blocks."""
        return Increment(
            multigrid(self.grid, r.surface, LEVELS) / self.density,
            (self._view_inverse @ r.views[..., None])[..., 0],
            self._shared_inverse @ r.shared,
        )

    def solve(self, iterations: int) -> Increment:
        """So many iterations of preconditioned conjugate gradients from zero."""
        r = self.rhs()
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


def multigrid(grid: BlockGrid, r: Float[Tensor, " N"], levels: int) -> Float[Tensor, " N"]:
    """sum over the levels of P P^T r, P interpolating from the level's grid."""
    if levels == 1 or grid.cells <= FEWEST_CELLS:
        return r
    return r + grid.prolong(multigrid(grid.coarser, grid.restrict(r), levels - 1))


def parts(x: Increment) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors of an increment."""
    return x.surface, x.views, x.shared


def dot(a: Increment, b: Increment) -> Float[Tensor, ""]:
    """The inner product."""
    pairs = zip(parts(a), parts(b), strict=True)
    return torch.stack([(x * y).sum() for x, y in pairs]).sum()


def add(a: Increment, b: Increment, factor: Float[Tensor, ""]) -> None:
    """a <- a + factor b."""
    for part, change in zip(parts(a), parts(b), strict=True):
        part.addcmul_(change, factor)
