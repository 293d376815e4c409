"""The optimisation of surface and poses, one step at a time."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pmni.config.training import TrainSettings
from pmni.errors import DivergenceError
from pmni.fields.band import BandSDF
from pmni.fields.corrected import CorrectedSDF
from pmni.fields.network import NeuralSDF
from pmni.fields.visual_hull import mask_distances, visual_hulls
from pmni.rendering.compositing import Rendering
from pmni.rendering.marching import march
from pmni.rendering.occupancy import OccupancyGrid
from pmni.rendering.renderer import render
from pmni.rendering.sphere_tracing import visible
from pmni.training import losses, multiview, schedule
from pmni.training.anchor import Anchor
from pmni.training.data import PatchBatch, PatchSampler, Views, patch_rays
from pmni.training.pose_steps import PoseSteps
from pmni.training.poses import LearnedPoses, ViewScales
from pmni.training.warm_start import fit_network


@dataclass(frozen=True)
class StepReport:
    """What a step did; tensors, so that reading them is the caller's choice."""

    loss: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    values: dict[str, int | float]


class Trainer:
    """Networks, poses, optimisers and occupancy of one training.

    Every random draw comes from a generator seeded by (seed, step): step k does the same whether
    the training ran through or was resumed. With a `surface` to start from, the network is the
    correction of that, and all levels of its encoding are on. `pose_steps` are those of the method
    `gauss_newton`.
    """

    def __init__(
        self,
        views: Views,
        initial: Float[Tensor, "V 4 4"],
        settings: TrainSettings,
        surface: BandSDF | None = None,
        pose_steps: PoseSteps | None = None,
    ) -> None:
        self.settings = settings
        self.views = views
        self.pose_steps = pose_steps
        self.device = views.device
        self.network = NeuralSDF(settings.field, settings.seed).to(self.device)
        self.surface: NeuralSDF | CorrectedSDF = self.network
        self.anchor = None
        if surface is not None and settings.warm_start.source in (None, "surface"):
            self.network.vanish(settings.seed)
            self.surface = CorrectedSDF(surface, self.network)
            self.anchor = Anchor(surface)
        self.variance = nn.Parameter(torch.tensor(settings.sharpness.variance, device=self.device))
        self.poses = LearnedPoses(initial, settings.poses.gauge, settings.poses.method)
        self.poses.to(self.device)
        self.scales = ViewScales(len(views.names)).to(self.device)
        self.sampler = PatchSampler(
            views, settings.rendering.patch, settings.margin, settings.background
        )
        self.occupancy = OccupancyGrid(
            settings.rendering.occupancy_resolution, settings.rendering.shell, self.device
        )
        self.field_optimiser = torch.optim.Adam(self._field_groups())
        self.pose_optimiser = torch.optim.Adam(
            [*self.poses.parameters(), *self.scales.parameters()], lr=0.0
        )
        self.step_number = 0

    def _field_groups(self) -> list[dict[str, Any]]:
        rate = self.settings.rate
        grid = list(self.network.encoding.parameters())
        network = list(self.network.layers.parameters())
        groups = [{"params": network, "base": rate}, {"params": [self.variance], "base": rate}]
        if grid:
            groups.append({"params": grid, "base": self.settings.grid_rate or rate})
        return groups

    def warm_start(self) -> float | None:
        """Fit the network to the visual hull, unless it corrects a surface or starts as a sphere.

        Returns the fit's mean error.
        """
        chosen = self.settings.warm_start
        self.network.active = self._levels(0)
        if chosen.source == "sphere" or self.anchor is not None:
            return None
        sizes = self.views.sizes
        distances = mask_distances(self.views.masks.cpu().numpy() > 0, sizes.cpu().numpy())
        hull = visual_hulls(
            torch.from_numpy(distances).to(self.device),
            self.views.intrinsics,
            self.poses.initial,
            chosen.resolution,
            chosen.ignore,
            sizes,
        )[-1]
        generator = self._generator(-1)
        return fit_network(self.network, hull, chosen.steps, chosen.points, 5e-3, generator)

    def _levels(self, step: int) -> int:
        """How many levels of the encoding are on."""
        field = self.settings.field
        return field.levels if self.anchor is not None else schedule.active_levels(step, field)

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.settings.seed << 32) + step + 1)

    def inv_s(self, step: int) -> Tensor:
        """The sharpness at a step."""
        sharpness = self.settings.sharpness
        if sharpness.mode == "learned":
            return torch.exp(10 * self.variance).clamp(1e-6, 1e6)
        done = schedule.progress(step, self.settings)
        value = schedule.log_linear(sharpness.start, sharpness.end, done)
        return torch.tensor(value, device=self.device)

    def step(self) -> StepReport:
        """One optimiser step. Raises DivergenceError naming step and term of a non-finite value."""
        settings, step = self.settings, self.step_number
        phase = schedule.phase_at(step, settings)
        done = schedule.progress(step, settings)
        self.network.active = self._levels(step)
        if step % settings.rendering.occupancy_every == 0:
            self.occupancy.refresh(self.surface)
        generator = self._generator(step)
        batch = self.sampler.draw(settings.patches, generator)
        c2w = self.poses()
        patches = patch_rays(batch, self.views.intrinsics, c2w)
        spacing = schedule.log_linear(
            settings.rendering.step_start, settings.rendering.step_end, done
        )
        jitter = torch.rand(settings.patches, generator=generator).to(self.device)
        planes = march(patches, self.occupancy, torch.tensor(spacing, device=self.device), jitter)
        inv_s = self.inv_s(step)
        rendering = render(self.surface, patches, planes, inv_s, settings.rendering)
        terms = self._terms(batch, patches.m, c2w, rendering, generator)
        weights = phase.weights.model_dump()
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()

        factor = schedule.rate_factor(step, settings)
        moving = step >= settings.poses.start * settings.steps
        self.field_optimiser.zero_grad(set_to_none=True)
        self.pose_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.field_optimiser.param_groups:
            group["lr"] = group["base"] * factor
        for group in self.pose_optimiser.param_groups:
            group["lr"] = phase.pose_rate * factor if moving else 0.0
        self._clip(terms)
        self.field_optimiser.step()
        if moving:
            self.pose_optimiser.step()
        self.step_number += 1
        if moving and self.pose_steps and self.step_number % settings.poses.every == 0:
            self.poses.put(self.pose_steps.step(self.surface, self.poses(), self.step_number))
        values = {
            "rate": settings.rate * factor,
            "levels": self.network.active,
            "samples": int(rendering.intervals),
        }
        return StepReport(loss.detach(), {k: v.detach() for k, v in terms.items()}, values)

    def _clip(self, terms: dict[str, Tensor]) -> None:
        """Clip both groups' gradients; non-finite ones stop the training."""
        field = nn.utils.clip_grad_norm_(
            [*self.network.parameters(), self.variance], self.settings.clip_field
        )
        poses = nn.utils.clip_grad_norm_(self.poses.parameters(), self.settings.clip_poses)
        if torch.isfinite(field + poses):
            return
        broken = [name for name, term in terms.items() if not torch.isfinite(term)]
        what = f"the term '{broken[0]}'" if broken else "the gradient (every term is finite)"
        raise DivergenceError(
            f"step {self.step_number}: {what} is not finite; lower the learning rate or look at "
            "the input normals"
        )

    def _terms(
        self,
        batch: PatchBatch,
        m: Float[Tensor, "P h w 3"],
        c2w: Float[Tensor, "V 4 4"],
        rendering: Rendering,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """The terms of the loss whose weights are not zero."""
        settings = self.settings
        weights = schedule.phase_at(self.step_number, settings).weights
        views = len(self.views.names)
        measured = batch.mask * (batch.distance > 0)
        terms = {}
        if weights.normal:
            terms["normal"] = losses.normal_loss(
                rendering.normal, batch.normal, batch.mask, settings.normal_norm
            )
        if weights.mask:
            terms["mask"] = losses.mask_loss(rendering.opacity, batch.mask)
        if weights.eikonal:
            terms["eikonal"] = losses.eikonal_loss(rendering.slope_error, rendering.intervals)
        if weights.depth or weights.surface or weights.chamfer:
            if settings.poses.learn_scale:
                scale = self.scales()
            else:
                scale = losses.closed_form_scales(
                    batch.distance, rendering.distance, measured, batch.view, views
                )
            terms |= self._distance_terms(batch, m, c2w, rendering, measured, scale)
        if weights.depth_robust:
            terms["depth_robust"] = losses.robust_depth_loss(
                batch.distance, rendering.distance, measured, batch.view, views
            )
        if weights.consistency:
            terms["consistency"] = self._consistency(batch, m, c2w, rendering, generator)
        if weights.anchor and self.anchor is not None:
            terms["anchor"] = self.anchor.loss(self.network, generator)
        return terms

    def _distance_terms(
        self,
        batch: PatchBatch,
        m: Float[Tensor, "P h w 3"],
        c2w: Float[Tensor, "V 4 4"],
        rendering: Rendering,
        measured: Float[Tensor, "P h w"],
        scale: Float[Tensor, "V"],
    ) -> dict[str, Tensor]:
        """The terms of the integrated distances; those on points use each patch's centre pixel."""
        weights = schedule.phase_at(self.step_number, self.settings).weights
        mine = scale[batch.view]
        terms = {}
        if weights.depth:
            terms["depth"] = losses.depth_loss(batch.distance, rendering.distance, measured, mine)
        if weights.surface or weights.chamfer:
            centre = (slice(None), m.shape[1] // 2, m.shape[2] // 2)
            points = multiview.back_project(
                m[centre], mine * batch.distance[centre], c2w[batch.view]
            )
            on = measured[centre]
            if weights.surface:
                terms["surface"] = multiview.surface_loss(self.surface, points, on)
            if weights.chamfer:
                terms["chamfer"] = multiview.chamfer_loss(points, batch.view, len(scale), on)
        return terms

    def _consistency(
        self,
        batch: PatchBatch,
        m: Float[Tensor, "P h w 3"],
        c2w: Float[Tensor, "V 4 4"],
        rendering: Rendering,
        generator: torch.Generator,
    ) -> Tensor:
        """Normals of the patches' centre points against those of another, random view."""
        centre = (slice(None), m.shape[1] // 2, m.shape[2] // 2)
        opacity = rendering.opacity[centre]
        on = (opacity.detach() > 0.9) & (batch.mask[centre] > 0)
        distance = rendering.distance[centre] / opacity.clamp(min=0.1)
        mine = c2w[batch.view]
        x = multiview.back_project(m[centre], distance, mine)
        normal = (mine[:, :3, :3] * rendering.normal[centre][:, None, :]).sum(-1)
        normal = normal / torch.linalg.vector_norm(normal, dim=-1, keepdim=True).clamp(min=1e-6)
        views = len(self.views.names)
        shift = torch.randint(1, views, (len(batch.view),), generator=generator)
        other = (batch.view + shift.to(self.device)) % views
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

    def state(self) -> dict[str, Any]:
        """Everything that the remaining steps depend on."""
        return {
            "step": self.step_number,
            "network": self.network.state_dict(),
            "variance": self.variance.detach(),
            "poses": self.poses.state_dict(),
            "scales": self.scales.state_dict(),
            "field_optimiser": self.field_optimiser.state_dict(),
            "pose_optimiser": self.pose_optimiser.state_dict(),
            "occupancy": self.occupancy.cells,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state: the steps that follow are bit for bit those of the first run."""
        self.step_number = state["step"]
        self.network.load_state_dict(state["network"])
        self.variance.data.copy_(state["variance"])
        self.poses.load_state_dict(state["poses"])
        self.scales.load_state_dict(state["scales"])
        self.field_optimiser.load_state_dict(state["field_optimiser"])
        self.pose_optimiser.load_state_dict(state["pose_optimiser"])
        self.occupancy.cells = state["occupancy"].to(self.device)
