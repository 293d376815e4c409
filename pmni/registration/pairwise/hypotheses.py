"""Relative poses of all pairs of views: search, score, align, score again."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pmni.config.registration import AlignmentStage, PairwiseSettings, ScoringStage
from pmni.registration.pairwise.alignment import align
from pmni.registration.pairwise.overlap import overlap_score
from pmni.registration.pairwise.support_functions import (
    SearchGrid,
    SupportFunctions,
    search,
    search_grid,
    view_support_functions,
)
from pmni.registration.working_views import WorkingViews

SUPPRESSED = 100.0
"""Subtracted from scores, which are at most 1, near a peak."""


@dataclass(frozen=True)
class Hypotheses:
    """M relative poses x_j = R x_i + t of pairs i < j, a few for each pair, best first."""

    pairs: Int[Tensor, "M 2"]
    rotations: Float[Tensor, "M 3 3"]
    translations: Float[Tensor, "M 3"]
    scores: Float[Tensor, " M"]
    """`OverlapScore.raw`."""


def no_progress(done: int, total: int) -> None:
    """Ignores the number of pairs that are done."""


def pair_hypotheses(
    views: WorkingViews,
    settings: PairwiseSettings,
    progress: Callable[[int, int], None] = no_progress,
) -> Hypotheses:
    """Relative poses of all pairs; `progress(pairs done, pairs)` is called now and then.

    Nothing here is random. On a CPU source views are processed in parallel, as many as PyTorch has
    threads.
    """
    grid = search_grid(settings.search, views.device)
    supports = view_support_functions(views, grid)
    total = len(views) * (len(views) - 1) // 2
    parts: list[Hypotheses] = []
    done = 0

    def from_source(source: int) -> Hypotheses:
        return _from_source(views, supports, grid, source, settings)

    with _workers(views.device) as pool:
        for part in pool.map(from_source, range(len(views) - 1)):
            parts.append(part)
            done += len(views) - len(parts)
            progress(done, total)
    return Hypotheses(
        torch.cat([part.pairs for part in parts]),
        torch.cat([part.rotations for part in parts]),
        torch.cat([part.translations for part in parts]),
        torch.cat([part.scores for part in parts]),
    )


@contextmanager
def _workers(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Threads that each work on whole pairs: operations are too small to be split among threads."""
    threads = torch.get_num_threads()
    count = threads if device.type == "cpu" else 1
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _from_source(
    views: WorkingViews,
    supports: SupportFunctions,
    grid: SearchGrid,
    source: int,
    settings: PairwiseSettings,
) -> Hypotheses:
    """The hypotheses of the pairs of one view with all later ones."""
    targets = torch.arange(source + 1, len(views), device=views.device)
    candidates = search(views, supports, grid, source, targets)
    poses = _Poses(source, targets, candidates.rotations, candidates.translations, settings)
    separation = math.radians(settings.start_separation_deg)
    starts = poses.spread(poses.scores(views, settings.first_score), settings.starts, separation)
    poses = poses.select(starts).aligned(views, settings.first_alignment)
    best = poses.scores(views, settings.second_score).topk(settings.finalists, dim=1).indices
    poses = poses.select(best).aligned(views, settings.second_alignment)
    scores = poses.scores(views, settings.last_score)
    order = scores.argsort(dim=1, descending=True, stable=True)
    poses, scores = poses.select(order), scores.gather(1, order)
    keep = poses.distinct(math.radians(settings.hypothesis_separation_deg))
    keep &= keep.cumsum(1) <= settings.hypotheses
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
    settings: PairwiseSettings

    def _flat(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Source, target, rotation and translation of all B C poses."""
        target = self.targets.repeat_interleave(self.R.shape[1])
        source = torch.full_like(target, self.source)
        return source, target, self.R.flatten(0, 1), self.t.flatten(0, 1)

    def scores(self, views: WorkingViews, stage: ScoringStage) -> Float[Tensor, "B C"]:
        """The raw overlap score of each pose."""
        angle = math.radians(stage.angle_deg)
        overlap = overlap_score(
            views, *self._flat(), stage.tolerance, angle, self.settings.overlap, stage.points
        )
        return overlap.raw().reshape(self.R.shape[:2])

    def aligned(self, views: WorkingViews, stage: AlignmentStage) -> "_Poses":
        """The poses after Gauss-Newton steps."""
        R, t = align(views, *self._flat(), stage, self.settings.alignment)
        return replace(self, R=R.reshape(self.R.shape), t=t.reshape(self.t.shape))

    def select(self, index: Int[Tensor, "B c"]) -> "_Poses":
        """Only the poses of each target with these indices, in that order."""
        row = torch.arange(len(self.R), device=self.R.device)[:, None]
        return replace(self, R=self.R[row, index], t=self.t[row, index])

    def spread(
        self, scores: Float[Tensor, "B C"], count: int, separation: float
    ) -> Int[Tensor, "B c"]:
        """The best poses at least `separation` (radians) apart, by non-maximum suppression."""
        left = scores.clone()
        row = torch.arange(len(left), device=left.device)
        peaks = []
        for _ in range(min(count, left.shape[1])):
            best = left.argmax(1)
            peaks.append(best)
            near = _cosine(self.R, self.R[row, best][:, None]) > math.cos(separation)
            left = torch.where(near, left - SUPPRESSED, left)
        return torch.stack(peaks, 1)

    def distinct(self, angle: float) -> Bool[Tensor, "B C"]:
        """Whether each pose is at least `angle` (radians) from every distinct pose before it."""
        near = _cosine(self.R[:, :, None], self.R[:, None]) > math.cos(angle)
        keep = torch.ones_like(near[:, 0])
        for index in range(1, keep.shape[1]):
            keep[:, index] = ~(near[:, index, :index] & keep[:, :index]).any(1)
        return keep


def _cosine(a: Float[Tensor, "*n 3 3"], b: Float[Tensor, "*m 3 3"]) -> Float[Tensor, "..."]:
    """Cosine of the angle between rotations."""
    return ((a * b).sum((-1, -2)) - 1) / 2
