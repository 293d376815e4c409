"""Weighted least squares of differences on a graph, for weights that change slowly."""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from scipy.sparse.linalg import SuperLU, splu

from pmni.config.integration import SolverSettings
from pmni.errors import DivergenceError
from pmni.integration.pixel_graph import PixelGraph

MAX_STEPS = 100
"""Conjugate gradient steps with a new factorisation after which there is no solution; two or three
suffice otherwise."""
ROUNDING = 1e-12
"""Norm of a residual relative to the right-hand side that is zero but for rounding."""


class DifferenceSolver:
    """Solver of argmin over x of the sum over edges of w_e (x_q - x_p - d_e)^2, for one graph.

    The normal matrix is the graph's Laplacian. It is factorised, and that factorisation
    preconditions the conjugate gradients of the following systems for as long as it serves, so a
    solve removes errors of all wavelengths; a diagonal preconditioner leaves the long ones. The
    loop is not scipy's `cg`: it stops relative to the residual at the start, and keeps the residual
    when a new factorisation is needed.
    """

    def __init__(self, graph: PixelGraph, settings: SolverSettings) -> None:
        self.graph, self.settings = graph, settings
        # x is determined up to a constant in each part: the first pixel of each is fixed at 0.
        self.fixed: np.ndarray = np.unique(graph.part, return_index=True)[1]
        n, edges = graph.pixels, len(graph.p)
        diagonal = np.arange(n)
        rows = np.concatenate([graph.p, graph.q, diagonal])
        columns = np.concatenate([graph.q, graph.p, diagonal])
        # Entry i of the matrix is value `order[i]` of (-w, -w, diagonal); no entry is there twice.
        order = np.arange(1, 2 * edges + n + 1)
        self.matrix = sp.csc_matrix((order.astype(float), (rows, columns)), shape=(n, n))
        self.order = self.matrix.data.astype(int) - 1
        self.factors: SuperLU | None = None

    def solve(
        self,
        weights: Float[np.ndarray, " E"],
        d: Float[np.ndarray, " E"],
        start: Float[np.ndarray, " N"],
    ) -> Float[np.ndarray, " N"]:
        """The solution, from `start`. Raises DivergenceError when the solver does not converge."""
        p, q, n = self.graph.p, self.graph.q, self.graph.pixels
        diagonal = np.bincount(p, weights, n) + np.bincount(q, weights, n)
        diagonal[self.fixed] += weights.max(initial=1.0)
        self.matrix.data = np.concatenate([-weights, -weights, diagonal])[self.order]
        weighted = weights * d
        rhs = np.bincount(q, weighted, n) - np.bincount(p, weighted, n)
        x = start.copy()
        x -= x[self.fixed][self.graph.part]
        residual = rhs - self.matrix @ x
        rounding = ROUNDING * float(np.linalg.norm(rhs))
        reduction = self.settings.residual_reduction
        goal = max(reduction * float(np.linalg.norm(residual)), rounding)
        if not np.isfinite(goal):
            raise DivergenceError("normal integration met a non-finite value")
        reuse_steps = self.settings.reuse_steps
        if self.factors is not None and self._reduce(x, residual, goal, reuse_steps):
            return x
        self._factorise()
        if not self._reduce(x, residual, goal, MAX_STEPS):
            raise DivergenceError("the linear solver of normal integration does not converge")
        return x

    def _factorise(self) -> None:
        try:
            self.factors = splu(
                self.matrix,
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            )
        except RuntimeError as error:
            raise DivergenceError(f"normal integration: {error}") from None

    def _reduce(
        self,
        x: Float[np.ndarray, " N"],
        residual: Float[np.ndarray, " N"],
        goal: float,
        steps: int,
    ) -> bool:
        """Preconditioned conjugate gradients, in place; whether the residual came below `goal`."""
        assert self.factors is not None
        direction = np.zeros_like(x)
        rho = 1.0
        for _ in range(steps):
            if np.linalg.norm(residual) <= goal:
                return True
            preconditioned = self.factors.solve(residual)
            before, rho = rho, float(residual @ preconditioned)
            direction *= rho / before
            direction += preconditioned
            product = self.matrix @ direction
            alpha = rho / float(direction @ product)
            x += alpha * direction
            residual -= alpha * product
        return bool(np.linalg.norm(residual) <= goal)
