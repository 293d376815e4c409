"""The optimisation of surface and poses, one step at a time."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pmni.config.training import TrainSettings
from pmni.data.views import Views
from pmni.errors import DivergenceError
from pmni.kernels.types import Patches, Planes
from pmni.runtime.cuda_graphs import CapturedFunction
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.sdf.network import NeuralSDF
from pmni.sdf.residual import ResidualSDF
from pmni.sdf.visual_hull import visual_hulls
from pmni.training import schedule
from pmni.training.buffer_capacities import BufferCapacities
from pmni.training.gauss_newton_poses import GaussNewtonPoses
from pmni.training.graph_capture import captures_graphs, unsupported_reason
from pmni.training.losses.base import LossContext, StepInputs
from pmni.training.objective import Objective
from pmni.training.optimizer import Optimizer
from pmni.training.patches import PatchSampler, patch_rays
from pmni.training.poses import LearnedPoses, ViewScales
from pmni.training.rng import StepRng
from pmni.training.warm_start import fit_network
from pmni.volume_rendering.marching import march, march_padded
from pmni.volume_rendering.occupancy import OccupancyGrid
from pmni.volume_rendering.renderer import render

LOGGER = logging.getLogger("train")
CHECK_EVERY = 25
"""Graph-captured steps between two checks of what the device has recorded."""


@dataclass(frozen=True)
class StepReport:
    """Numbers of a step, on the device. The next step may overwrite them."""

    loss: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    """Unweighted loss terms."""
    samples: Int[Tensor, ""]
    """Number of valid intervals of all rays."""
    inv_s: Float[Tensor, ""]


@dataclass(frozen=True)
class GraphCapture:
    """Steps that are captured and replayed as CUDA graphs."""

    capacities: BufferCapacities
    step: CapturedFunction[StepReport]
    refresh: CapturedFunction[None]
    """The refresh of the occupancy grid."""


class Trainer:
    """Network, poses, optimiser and occupancy grid of one training.

    Every random number is a function of seed and step: step k does the same whether the training
    ran through or was resumed.

    Args:
        initial: initial camera-to-world matrices.
        surface: a refined surface; the network then learns its correction, with all levels of the
            encoding active.
        pose_steps: the steps of the pose method `gauss_newton`.
    """

    def __init__(
        self,
        views: Views,
        initial: Float[Tensor, "V 4 4"],
        settings: TrainSettings,
        surface: NarrowBandSDF | None = None,
        pose_steps: GaussNewtonPoses | None = None,
    ) -> None:
        self.settings = settings
        self.views = views
        self.pose_steps = pose_steps
        self.device = views.device
        self.network = NeuralSDF(settings.field, settings.seed).to(self.device)
        self.surface: NeuralSDF | ResidualSDF = self.network
        self.initial_surface: NarrowBandSDF | None = None
        if surface is not None and settings.warm_start.source in (None, "surface"):
            self.network.zero_init(settings.seed)
            self.surface = ResidualSDF(surface, self.network)
            self.initial_surface = surface
        self.variance = nn.Parameter(torch.tensor(settings.sharpness.variance, device=self.device))
        self.poses = LearnedPoses(initial, settings.poses.gauge, settings.poses.method)
        self.poses.to(self.device)
        self.scales = ViewScales(len(views)).to(self.device)
        self.sampler = PatchSampler(
            views, settings.rendering.patch, settings.margin, settings.background
        )
        self.occupancy = OccupancyGrid(settings.rendering.occupancy, self.device)
        self.objective = Objective(
            LossContext(
                *(settings, views, self.surface, self.network, self.initial_surface, self.scales)
            )
        )
        self.optimizer = Optimizer(
            settings.optimizer,
            [*self.network.layers.parameters(), self.variance],
            list(self.network.encoding.parameters()),
            list(self.poses.parameters()),
            list(self.scales.parameters()),
            self.device,
        )
        self.device_step = torch.zeros((), dtype=torch.int64, device=self.device)
        """The number of the step, on the device."""
        self._step_number = 0
        self._term_names: dict[int, list[str]] = {}
        self._phase_weights: dict[int, Tensor] = {}
        self.schedule = schedule.table(settings).to(self.device)
        self.graph = self._capture_graph()

    def _capture_graph(self) -> GraphCapture | None:
        settings, encoding = self.settings, self.network.encoding
        if captures_graphs(settings, encoding, self.device):
            return GraphCapture(
                BufferCapacities(self.device),
                CapturedFunction(self._train_step, self.device),
                CapturedFunction(self._refresh_occupancy, self.device),
            )
        if self.device.type == "cuda" and settings.graph != "off":
            reason = unsupported_reason(settings, encoding, self.device)
            LOGGER.info("steps are not captured as CUDA graphs: %s", reason)
        return None

    @property
    def step_number(self) -> int:
        """Number of steps done."""
        return self._step_number

    @step_number.setter
    def step_number(self, number: int) -> None:
        self._step_number = number
        self.device_step.fill_(number)

    def warm_start(self) -> float | None:
        """Fit the network to the visual hull, unless it corrects a surface or starts as a sphere.

        Returns the mean absolute error of the fit, or None without a fit.
        """
        warm_start = self.settings.warm_start
        self.network.active = self._active_levels(0)
        if warm_start.source == "sphere" or self.initial_surface is not None:
            return None
        hull = visual_hulls(
            self.views.contour_distance,
            self.views.intrinsics.float(),
            self.poses.initial,
            warm_start.resolution,
            warm_start.ignore,
            self.views.sizes,
        )[-1]
        return fit_network(self.network, hull, self.settings)

    def _active_levels(self, step: int) -> int:
        """Number of active levels of the encoding."""
        field = self.settings.field
        if self.initial_surface is not None:
            return field.levels
        return schedule.active_levels(step, field)

    def step(self) -> StepReport:
        """One optimiser step.

        Raises DivergenceError naming step and term of the first value that was not finite: at once,
        or at the next check of graph-captured steps. Nothing has changed from that step on.
        """
        settings, step = self.settings, self._step_number
        self.network.active = self._active_levels(step)
        refresh = step % settings.rendering.occupancy.refresh_every == 0
        graph = self.graph
        if graph is None or not graph.capacities.is_set:
            if refresh:
                self._refresh_occupancy()
            report = self._train_step()
        else:
            capacities, phase = graph.capacities, schedule.phase_index(step, settings)
            active = self.network.active
            if refresh:
                graph.refresh((active, capacities.cells), kind=None)
            report = graph.step((active, capacities.planes, phase), kind=phase)
        self._step_number += 1
        poses_due = self._step_number % settings.poses.every == 0
        if self.pose_steps and poses_due and schedule.poses_move(step, settings):
            self.poses.set(self.pose_steps.step(self.surface, self.poses(), self._step_number))
        if graph is None or self._check_due(self._step_number):
            self.check()
            if graph is not None:
                graph.capacities.adapt(self._step_number)
        return report

    def _check_due(self, done: int) -> bool:
        """Whether graph-captured steps are checked: often at first, when sizes change most."""
        early = done < CHECK_EVERY and done.bit_count() == 1  # 1, 2, 4, ...
        return early or done % CHECK_EVERY == 0 or done in self.settings.kept_steps()

    def _refresh_occupancy(self) -> None:
        capacities = None if self.graph is None else self.graph.capacities
        needed = self.occupancy.refresh(self.surface, capacities.cells if capacities else None)
        if capacities is not None:
            capacities.record_cells(needed)

    def _planes(
        self,
        patches: Patches,
        inv_s: Float[Tensor, ""],
        spacing: Float[Tensor, ""],
        jitter: Float[Tensor, " P"],
    ) -> Planes:
        """All planes; padded to the capacity where there is one."""
        inputs = patches, self.occupancy, self.occupancy.truncation(inv_s), spacing, jitter
        capacities = None if self.graph is None else self.graph.capacities
        if capacities is None or capacities.planes is None:
            planes = march(*inputs)
            needed = planes.offsets[-1]
        else:
            planes, needed = march_padded(capacities.planes, *inputs)
        if capacities is not None:
            capacities.record_planes(needed)
        return planes

    def _train_step(self) -> StepReport:
        """The step of number `device_step`: all of it is computed on the device."""
        settings = self.settings
        phase = schedule.phase_index(self._step_number, settings)
        row = self.schedule.index_select(0, self.device_step[None])[0]
        spacing, scheduled_inv_s = row[3], row[4]
        rng = StepRng(settings.seed, self.device_step)
        batch = self.sampler.draw(settings.patches, rng)
        c2w = self.poses()
        patches = patch_rays(batch, c2w)
        inv_s = self._sharpness(scheduled_inv_s)
        planes = self._planes(patches, inv_s, spacing, batch.jitter)
        rendering = render(self.surface, patches, planes, inv_s, settings.rendering)
        inputs = StepInputs(self.objective.context, batch, c2w, rendering, rng)
        terms = self.objective.terms(settings.phases[phase].weights, inputs)
        self._term_names[phase] = list(terms)
        values = torch.stack(list(terms.values()))
        loss = (values * self._weights(phase)).sum()
        self.optimizer.zero_grad()
        loss.backward()
        values = values.detach()
        self.optimizer.step(self.device_step, values, row[:3])
        self.device_step.add_(1)
        by_name = dict(zip(terms, values.unbind(), strict=True))
        return StepReport(loss.detach(), by_name, rendering.intervals, inv_s.detach())

    def _weights(self, phase: int) -> Float[Tensor, " T"]:
        """Weights of a phase's terms."""
        if phase not in self._phase_weights:
            active = self.settings.phases[phase].weights.active()
            weights = [active[name] for name in self._term_names[phase]]
            self._phase_weights[phase] = torch.tensor(weights, device=self.device)
        return self._phase_weights[phase]

    def _sharpness(self, scheduled: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """inv_s: learned, or as scheduled."""
        if self.settings.sharpness.mode == "learned":
            return torch.exp(10 * self.variance).clamp(1e-6, 1e6)
        return scheduled

    def check(self) -> None:
        """Raise DivergenceError if a value was not finite. Waits for the device."""
        failed = int(self.optimizer.failed_step)
        if failed < 0:
            return
        names = self._term_names[schedule.phase_index(failed, self.settings)]
        finite = self.optimizer.finite_terms.tolist()
        broken = [name for name, is_finite in zip(names, finite, strict=False) if not is_finite]
        what = f"the term '{broken[0]}'" if broken else "the gradient (every term is finite)"
        raise DivergenceError(
            f"step {failed}: {what} is not finite; lower the learning rate or look at the input "
            "normals"
        )

    def state(self) -> dict[str, Any]:
        """Everything that the remaining steps depend on. Raises DivergenceError as `check`."""
        self.check()
        state = {
            "step": self._step_number,
            "network": self.network.state_dict(),
            "variance": self.variance.detach(),
            "poses": self.poses.state_dict(),
            "scales": self.scales.state_dict(),
            "optimizer": self.optimizer.state(),
            "occupancy": self.occupancy.values,
        }
        if self.graph is not None:
            state["capacities"] = self.graph.capacities.state()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state: the steps that follow are bit for bit those of the first run, if
        both are graph-captured or neither is."""
        self.step_number = state["step"]
        self.network.load_state_dict(state["network"])
        self.variance.data.copy_(state["variance"])
        self.poses.load_state_dict(state["poses"])
        self.scales.load_state_dict(state["scales"])
        self.optimizer.restore(state["optimizer"])
        self.occupancy.values.copy_(state["occupancy"])
        if self.graph is not None:
            self.graph.step.reset()
            self.graph.refresh.reset()
            if "capacities" in state:
                self.graph.capacities.restore(state["capacities"])
