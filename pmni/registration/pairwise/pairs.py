"""Relative poses of all pairs of views, from nothing: search, score, align, score again."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pmni.registration.pairwise.alignment import align
from pmni.registration.pairwise.scoring import agreement
from pmni.registration.pairwise.supports import (
    SearchGrid,
    Supports,
    search,
    search_grid,
    view_supports,
)
from pmni.registration.views import Views

MOST = 4
"""Hypotheses of a pair."""

_CANDIDATES = 200  # rotations that are scored densely
_APART = math.radians(10)  # of the poses to align
_STARTS = 16
_FINALISTS = 6
_DISTINCT = math.radians(5)  # of the hypotheses of a pair


@dataclass(frozen=True)
class Hypotheses:
    """M relative poses x_j = R x_i + t of pairs i < j, a few for each pair, best first."""

    pairs: Int[Tensor, "M 2"]
    rotations: Float[Tensor, "M 3 3"]
    translations: Float[Tensor, "M 3"]
    scores: Float[Tensor, " M"]
    """`Agreement.raw`."""


def no_progress(done: int, total: int) -> None:
    """Tells nobody."""


def pair_hypotheses(
    views: Views, seed: int = 0, progress: Callable[[int, int], None] = no_progress
) -> Hypotheses:
    """Relative poses of all pairs; `progress(pairs done, pairs)` is called now and then.

    Nothing here is random: the seed only matters for the points that `make_views` drew. On a CPU
    source views are worked on side by side, as many as PyTorch has threads.
    """
    grid = search_grid(views.device)
    supports = view_supports(views, grid)
    sources = range(len(views) - 1)
    total = len(views) * (len(views) - 1) // 2
    found = []
    done = 0
    with _workers(views.device) as pool:
        for hypotheses in pool.map(lambda i: _from_source(views, supports, grid, i), sources):
            found.append(hypotheses)
            done += len(views) - len(found)
            progress(done, total)
    return Hypotheses(
        torch.cat([part.pairs for part in found]),
        torch.cat([part.rotations for part in found]),
        torch.cat([part.translations for part in found]),
        torch.cat([part.scores for part in found]),
    )


@contextmanager
def _workers(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Threads for whole pairs, each computing alone: operations are too small to be shared out."""
    threads = torch.get_num_threads()
    count = threads if device.type == "cpu" else 1
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _from_source(views: Views, supports: Supports, grid: SearchGrid, source: int) -> Hypotheses:
    """The hypotheses of the pairs of one view with all later ones."""
    targets = torch.arange(source + 1, len(views), device=views.device)
    candidates = search(views, supports, grid, source, targets, _CANDIDATES)
    poses = _Poses(source, targets, candidates.rotations, candidates.translations)
    poses = poses.taken(poses.spread(poses.scores(views, 0.125, 30.0, 250), _STARTS))
    poses = poses.aligned(views, 0.3, (0.19, 0.19), 6, 150)
    best = poses.scores(views, 0.075, 22.0, 500).topk(_FINALISTS, dim=1).indices
    poses = poses.taken(best).aligned(views, 0.25, (0.19, 0.075), 8, 300)
    scores = poses.scores(views, 0.0625, 18.0, 500)
    order = scores.argsort(dim=1, descending=True, stable=True)
    poses, scores = poses.taken(order), scores.gather(1, order)
    keep = poses.distinct(_DISTINCT)
    keep &= keep.cumsum(1) <= MOST
    row, column = torch.nonzero(keep, as_tuple=True)
    return Hypotheses(
        torch.stack([torch.full_like(row, source), targets[row]], 1),
        poses.R[row, column],
        poses.t[row, column],
        scores[row, column],
    )


@dataclass(frozen=True)
class _Poses:
    """C relative poses of one source view with each of B targets."""

    source: int
    targets: Int[Tensor, " B"]
    R: Float[Tensor, "B C 3 3"]
    t: Float[Tensor, "B C 3"]

    def _flat(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        target = self.targets.repeat_interleave(self.R.shape[1])
        source = torch.full_like(target, self.source)
        return source, target, self.R.flatten(0, 1), self.t.flatten(0, 1)

    def scores(
        self, views: Views, tolerance: float, angle_deg: float, points: int
    ) -> Float[Tensor, "B C"]:
        """Raw agreement."""
        result = agreement(views, *self._flat(), tolerance, math.radians(angle_deg), points)
        return result.raw().reshape(self.R.shape[:2])

    def aligned(
        self,
        views: Views,
        sigma_normal: float,
        sigma_depth: tuple[float, float],
        iterations: int,
        points: int,
    ) -> "_Poses":
        """After Gauss-Newton."""
        R, t = align(views, *self._flat(), sigma_normal, sigma_depth, iterations, points)
        return _Poses(self.source, self.targets, R.reshape(self.R.shape), t.reshape(self.t.shape))

    def taken(self, chosen: Int[Tensor, "B c"]) -> "_Poses":
        """Only the chosen poses of each target, in that order."""
        row = torch.arange(len(self.R), device=self.R.device)[:, None]
        return _Poses(self.source, self.targets, self.R[row, chosen], self.t[row, chosen])

    def spread(self, scores: Float[Tensor, "B C"], count: int) -> Int[Tensor, "B c"]:
        """The best poses that are `_APART` from each other, by suppressing all around each."""
        left = scores.clone()
        row = torch.arange(len(left), device=left.device)
        chosen = []
        for _ in range(min(count, left.shape[1])):
            best = left.argmax(1)
            chosen.append(best)
            near = _cosine(self.R, self.R[row, best][:, None]) > math.cos(_APART)
            left = torch.where(near, left - 100, left)
        return torch.stack(chosen, 1)

    def distinct(self, angle: float) -> Bool[Tensor, "B C"]:
        """Poses that are at least `angle` from each such pose before them."""
        near = _cosine(self.R[:, :, None], self.R[:, None]) > math.cos(angle)
        keep = torch.ones_like(near[:, 0])
        for index in range(1, keep.shape[1]):
            keep[:, index] = ~(near[:, index, :index] & keep[:, :index]).any(1)
        return keep


def _cosine(a: Float[Tensor, "*n 3 3"], b: Float[Tensor, "*m 3 3"]) -> Float[Tensor, "..."]:
    """Cosine of the angle between rotations."""
    return ((a * b).sum((-1, -2)) - 1) / 2
