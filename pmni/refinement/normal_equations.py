"""One Gauss-Newton step: the weighted least squares over all unknowns, by conjugate gradients."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pmni import kernels
from pmni.config.refinement import LinearSolverSettings
from pmni.refinement.residuals import Residuals
from pmni.refinement.state import SHARED_UNKNOWNS, VIEW_UNKNOWNS, Increment
from pmni.runtime.cuda_graphs import repeat
from pmni.sdf.block_grid import BlockGrid
from pmni.sdf.narrow_band import NarrowBandSDF


@dataclass(frozen=True)
class WeightedResiduals:
    """Residuals with their weights."""

    residuals: Residuals
    root_weight: Float[Tensor, " K"]
    """Square roots of the weights; zero where a residual does not count."""


@dataclass(frozen=True)
class Prior:
    """Quadratic terms weight * (value + increment)^2 of the views' and of the shared unknowns."""

    view_weight: Float[Tensor, "V 16"]
    view_value: Float[Tensor, "V 16"]
    shared_weight: Float[Tensor, "2"]
    shared_value: Float[Tensor, "2"]


@dataclass(frozen=True)
class _ScaledTerm:
    """K residuals of D components (M components a view), times their weights' square roots."""

    nodes: Int[Tensor, "K 8"]
    weights: Float[Tensor, "K D 8"]
    view_jacobian: Float[Tensor, "V M 16"]
    shared_jacobian: Float[Tensor, "VM 2"]
    value: Float[Tensor, "K D"]


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
        settings: LinearSolverSettings,
    ) -> None:
        self.grid, self.views, self.prior = surface.grid, views, prior
        self.settings = settings
        self.free_view, self.free_shared = free_view.float(), free_shared.float()
        in_order = torch.are_deterministic_algorithms_enabled()
        self.fused = kernels.use_triton(surface.grid.device) and not in_order
        self.terms = [self._scaled(term) for term in terms]
        by_view = [term.view_jacobian for term in self.terms]
        self.view_blocks = torch.stack([J.transpose(1, 2) @ J for J in by_view]).sum(0)
        diagonal = torch.diagonal(self.view_blocks, dim1=1, dim2=2)
        self.view_diagonal = prior.view_weight * self.free_view + settings.damping * diagonal
        self.shared_diagonal = prior.shared_weight * self.free_shared
        self.density = self._density(terms[0])
        near = surface.values.abs() <= settings.thin_plate_cells * self.grid.spacing
        self.thin_plate = settings.thin_plate_weight / 3 / self.grid.spacing**2 * near
        self.surface_laplacian = self.grid.laplacian(surface.values)
        self._view_inverse = self._inverse(
            self.view_blocks + torch.diag_embed(self.view_diagonal), self.free_view
        )
        by_shared = [term.shared_jacobian for term in self.terms]
        shared = torch.stack([J.T @ J for J in by_shared]).sum(0)
        shared = shared + torch.diag(self.shared_diagonal)
        self._shared_inverse = self._inverse(shared, self.free_shared)

    def _scaled(self, term: WeightedResiduals) -> "_ScaledTerm":
        """A term times its weights' square roots; derivatives by what is not free are 0."""
        r, w = term.residuals, term.root_weight
        view_jacobian = r.view_jacobian * w[:, None, None] * self.free_view
        shared_jacobian = r.shared_jacobian * w[:, None, None] * self.free_shared
        return _ScaledTerm(
            nodes=r.nodes.int() if self.fused else r.nodes,
            weights=r.weights * w[:, None, None],
            view_jacobian=view_jacobian.reshape(self.views, -1, VIEW_UNKNOWNS),
            shared_jacobian=shared_jacobian.reshape(-1, SHARED_UNKNOWNS),
            value=r.value * w[:, None],
        )

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
        hit[normals.residuals.nodes[normals.root_weight > 0, 0]] = 1
        return total / hit.sum().clamp(min=1)

    def rhs(self) -> Increment:
        """The right-hand side: -J^T W r and the priors' and regularizers' parts."""
        gradient = self._transposed_product([-term.value for term in self.terms])
        views = gradient.views - self.prior.view_weight * self.prior.view_value * self.free_view
        shared = (
            gradient.shared - self.prior.shared_weight * self.prior.shared_value * self.free_shared
        )
        surface = gradient.surface - self.grid.laplacian(self.thin_plate * self.surface_laplacian)
        return Increment(surface, views, shared)

    def apply(self, x: Increment) -> Increment:
        """The matrix times x."""
        if self.fused:
            product = self._fused_product(x)
        else:
            product = self._transposed_product(self._jacobian_product(x))
        laplacian = self.grid.laplacian(x.surface)
        gradient_weight = self.settings.gradient_weight * self.density
        gradient_term = gradient_weight * (laplacian + 1e-3 * x.surface)
        thin_plate = self.grid.laplacian(self.thin_plate * laplacian)
        return Increment(
            product.surface + gradient_term + thin_plate,
            product.views + self.view_diagonal * x.views,
            product.shared + self.shared_diagonal * x.shared,
        )

    def _fused_product(self, x: Increment) -> Increment:
        """J^T W J x, by a kernel."""
        from pmni.kernels.normal_equations import add_product

        result = self._zero()
        for term in self.terms:
            jacobians = term.view_jacobian, term.shared_jacobian
            add_product(*parts(x), term.nodes, term.weights, *jacobians, parts(result))
        return result

    def _jacobian_product(self, x: Increment) -> list[Tensor]:
        """J x of each term."""
        changes = []
        for term in self.terms:
            change = -(term.weights @ x.surface[term.nodes][..., None])[..., 0]
            change += (term.view_jacobian @ x.views[..., None]).view_as(change)
            change += (term.shared_jacobian @ x.shared).view_as(change)
            changes.append(change)
        return changes

    def _zero(self) -> Increment:
        device = self.grid.device
        return Increment(
            torch.zeros(len(self.grid), device=device),
            torch.zeros(self.views, VIEW_UNKNOWNS, device=device),
            torch.zeros(SHARED_UNKNOWNS, device=device),
        )

    def _transposed_product(self, changes: list[Tensor]) -> Increment:
        """J^T times changes of the terms' residuals."""
        surface, views, shared = parts(self._zero())
        for change, term in zip(changes, self.terms, strict=True):
            share = (term.weights * change[..., None]).sum(1)
            surface.index_add_(0, term.nodes.reshape(-1), -share.reshape(-1))
            by_view = change.reshape(self.views, -1, 1)
            views += (term.view_jacobian.transpose(1, 2) @ by_view)[..., 0]
            shared += term.shared_jacobian.T @ change.reshape(-1)
        return Increment(surface, views, shared)

    def precondition(self, r: Increment) -> Increment:
        """Surface: the sum of the grids of all sizes (Bramble, Pasciak, Xu, 1990). Views: the
        inverse of their blocks."""
        levels = self.settings.preconditioner_levels
        min_cells = self.settings.preconditioner_min_cells
        return Increment(
            multigrid(self.grid, r.surface, levels, min_cells) / self.density,
            (self._view_inverse @ r.views[..., None])[..., 0],
            self._shared_inverse @ r.shared,
        )

    def solve(self, iterations: int) -> Increment:
        """The increment after some iterations of preconditioned conjugate gradients from zero."""
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


def multigrid(
    grid: BlockGrid, r: Float[Tensor, " N"], levels: int, min_cells: int
) -> Float[Tensor, " N"]:
    """Sum over the levels of P P^T r, P interpolating from the level's grid.

    Each level has half the cells of the one before, down to `min_cells` along a side.
    """
    if levels == 1 or grid.cells <= min_cells:
        return r
    coarse = multigrid(grid.coarser, grid.restrict(r), levels - 1, min_cells)
    return r + grid.prolong(coarse)


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
