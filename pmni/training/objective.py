"""What a training minimises: the terms of the loss, from a rendering of the drawn patches."""

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.config.training import LossWeights, TrainSettings
from pmni.sdf.network import NeuralSDF
from pmni.sdf.sdf import SDF
from pmni.sdf.sphere_tracing import visible
from pmni.training import losses, multiview
from pmni.training.anchor import Anchor
from pmni.training.data import PatchBatch, Views
from pmni.training.draws import Draws, Stream
from pmni.training.poses import ViewScales
from pmni.volume_rendering.compositing import Rendering

UNSIZED = ("depth_robust", "chamfer", "consistency")
"""Terms whose work is as large as the data make it."""


class Objective:
    """The terms, given the surface, its correction by a network, and what holds that in place."""

    def __init__(
        self,
        settings: TrainSettings,
        views: Views,
        surface: SDF,
        network: NeuralSDF,
        anchor: Anchor | None,
        scales: ViewScales,
    ) -> None:
        self.settings, self.views, self.surface = settings, views, surface
        self.network, self.anchor, self.scales = network, anchor, scales
        self.count = len(views.names)

    def terms(
        self,
        weights: LossWeights,
        batch: PatchBatch,
        c2w: Float[Tensor, "V 4 4"],
        rendering: Rendering,
        draws: Draws,
    ) -> dict[str, Tensor]:
        """Those whose weights are not zero."""
        of_pixels = losses.pixel_terms(
            rendering.normal,
            rendering.opacity,
            rendering.eikonal_residual,
            rendering.intervals,
            batch.normal,
            batch.mask,
            self.settings.normal_norm,
        )
        names = ("normal", "mask", "eikonal")
        terms = {
            name: term
            for name, term in zip(names, of_pixels.unbind(), strict=True)
            if getattr(weights, name)
        }
        if weights.depth or weights.surface or weights.chamfer:
            terms |= self._of_distances(weights, batch, c2w, rendering)
        if weights.depth_robust:
            terms["depth_robust"] = losses.robust_depth_loss(
                batch.distance, rendering.distance, batch.measured, batch.view, self.count
            )
        if weights.consistency:
            terms["consistency"] = self._consistency(batch, c2w, rendering, draws)
        if weights.correction and self.anchor is not None:
            terms["correction"] = self.anchor.loss(self.network, draws)
        return terms

    def _of_distances(
        self,
        weights: LossWeights,
        batch: PatchBatch,
        c2w: Float[Tensor, "V 4 4"],
        rendering: Rendering,
    ) -> dict[str, Tensor]:
        """The terms of the integrated distances; those on points use each patch's centre pixel."""
        measured = batch.measured
        if self.settings.poses.learn_scale:
            scale = self.scales()
        else:
            scale = losses.closed_form_scales(
                batch.distance, rendering.distance, measured, batch.view, self.count
            )
        mine = scale.index_select(0, batch.view)
        terms = {}
        if weights.depth:
            terms["depth"] = losses.depth_loss(batch.distance, rendering.distance, measured, mine)
        if weights.surface or weights.chamfer:
            m = batch.m
            centre = (slice(None), m.shape[1] // 2, m.shape[2] // 2)
            points = multiview.back_project(
                m[centre], mine * batch.distance[centre], c2w[batch.view]
            )
            on = measured[centre]
            if weights.surface:
                terms["surface"] = multiview.surface_loss(self.surface, points, on)
            if weights.chamfer:
                terms["chamfer"] = multiview.chamfer_loss(points, batch.view, self.count, on)
        return terms

    def _consistency(
        self,
        batch: PatchBatch,
        c2w: Float[Tensor, "V 4 4"],
        rendering: Rendering,
        draws: Draws,
    ) -> Tensor:
        """Normals of the patches' centre points against those of another, random view."""
        m = batch.m
        centre = (slice(None), m.shape[1] // 2, m.shape[2] // 2)
        opacity = rendering.opacity[centre]
        on = (opacity.detach() > 0.9) & (batch.mask[centre] > 0)
        distance = rendering.distance[centre] / opacity.clamp(min=0.1)
        mine = c2w[batch.view]
        x = multiview.back_project(m[centre], distance, mine)
        normal = (mine[:, :3, :3] * rendering.normal[centre][:, None, :]).sum(-1)
        normal = normal / torch.linalg.vector_norm(normal, dim=-1, keepdim=True).clamp(min=1e-6)
        shift = 1 + draws.below(self.count - 1, Stream.OTHER_VIEW, len(batch.view))
        other = (batch.view + shift) % self.count
        with torch.no_grad():
            seen = on & visible(self.surface, x, c2w[other, :3, 3])
        return multiview.consistency_loss(
            x,
            normal,
            other,
            seen,
            c2w,
            self.views.intrinsics,
            self.views.normals,
            self.views.masks * ~self.views.heldout,
        )
