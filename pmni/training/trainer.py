"""The optimisation of surface and poses, one step at a time."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pmni.config.training import TrainSettings
from pmni.errors import DivergenceError
from pmni.runtime.cuda_graphs import Recorded
from pmni.sdf.band import BandSDF
from pmni.sdf.network import NeuralSDF
from pmni.sdf.residual import ResidualSDF
from pmni.sdf.visual_hull import mask_distances, visual_hulls
from pmni.training import schedule
from pmni.training.anchor import Anchor
from pmni.training.data import PatchSampler, Views, patch_rays
from pmni.training.draws import Draws
from pmni.training.graph import hindrance, records
from pmni.training.objective import Objective
from pmni.training.pose_steps import PoseSteps
from pmni.training.poses import LearnedPoses, ViewScales
from pmni.training.rooms import Rooms
from pmni.training.updates import Updates
from pmni.training.warm_start import fit_network
from pmni.volume_rendering.marching import Patches, Planes, march, march_padded
from pmni.volume_rendering.occupancy import OccupancyGrid
from pmni.volume_rendering.renderer import render

LOGGER = logging.getLogger("train")
LOOK_EVERY = 25
"""Recorded steps between looks at what the device has noted."""


@dataclass(frozen=True)
class StepReport:
    """What a step did; tensors, so that reading them is the caller's choice. The next step may
    overwrite them."""

    loss: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    samples: Int[Tensor, ""]
    """Intervals of all rays."""
    inv_s: Float[Tensor, ""]


@dataclass(frozen=True)
class Recording:
    """Steps that are replayed as graphs."""

    rooms: Rooms
    step: Recorded[StepReport]
    refresh: Recorded[None]
    """Of the occupancy grid."""


class Trainer:
    """Networks, poses, optimisers and occupancy of one training.

    Every random draw is a function of seed and step: step k does the same whether the training ran
    through or was resumed. With a `surface` to start from, the network is the correction of that,
    and all levels of its encoding are on. `pose_steps` are those of the method `gauss_newton`.
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
        self.surface: NeuralSDF | ResidualSDF = self.network
        self.anchor = None
        if surface is not None and settings.warm_start.source in (None, "surface"):
            self.network.zero_init(settings.seed)
            self.surface = ResidualSDF(surface, self.network)
            self.anchor = Anchor(surface)
        self.variance = nn.Parameter(torch.tensor(settings.sharpness.variance, device=self.device))
        self.poses = LearnedPoses(initial, settings.poses.gauge, settings.poses.method)
        self.poses.to(self.device)
        self.scales = ViewScales(len(views.names)).to(self.device)
        self.sampler = PatchSampler(
            views, settings.rendering.patch, settings.margin, settings.background
        )
        self.occupancy = OccupancyGrid(settings.rendering.occupancy, self.device)
        self.objective = Objective(
            settings, views, self.surface, self.network, self.anchor, self.scales
        )
        self.updates = Updates(
            settings,
            [*self.network.layers.parameters(), self.variance],
            list(self.network.encoding.parameters()),
            list(self.poses.parameters()),
            list(self.scales.parameters()),
            self.device,
        )
        self.clock = torch.zeros((), dtype=torch.int64, device=self.device)
        """The step's number, on the device."""
        self._number = 0
        self._names: dict[int, list[str]] = {}
        self._phase_weights: dict[int, Tensor] = {}
        self.schedule = schedule.table(settings).to(self.device)
        self.recording: Recording | None = None
        if records(settings, self.device):
            self.recording = Recording(
                Rooms(self.device),
                Recorded(self._body, self.device),
                Recorded(self._occupy, self.device),
            )
        elif self.device.type == "cuda" and settings.graph != "off":
            LOGGER.info("steps are not recorded: %s", hindrance(settings, self.device))

    @property
    def step_number(self) -> int:
        """How many steps have been done."""
        return self._number

    @step_number.setter
    def step_number(self, number: int) -> None:
        self._number = number
        self.clock.fill_(number)

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
        return fit_network(
            self.network, hull, chosen.steps, chosen.points, 5e-3, self.settings.seed
        )

    def _levels(self, step: int) -> int:
        """How many levels of the encoding are on."""
        field = self.settings.field
        return field.levels if self.anchor is not None else schedule.active_levels(step, field)

    def step(self) -> StepReport:
        """One optimiser step.

        Raises DivergenceError naming step and term of the first value that was not finite: at once,
        or when recorded steps are looked at. Nothing was changed from that step on.
        """
        settings, step = self.settings, self._number
        self.network.active = self._levels(step)
        refreshing = step % settings.rendering.occupancy.refresh_every == 0
        recording = self.recording
        if recording is None or not recording.rooms.known:
            if refreshing:
                self._occupy()
            report = self._body()
        else:
            rooms, phase = recording.rooms, schedule.phase_number(step, settings)
            if refreshing:
                recording.refresh((self.network.active, rooms.cells), kind=None)
            report = recording.step((self.network.active, rooms.planes, phase), kind=phase)
        self._number += 1
        due = self._number % settings.poses.every == 0 and schedule.moving(step, settings)
        if self.pose_steps and due:
            self.poses.put(self.pose_steps.step(self.surface, self.poses(), self._number))
        if recording is None or self._is_looked_at(self._number):
            self.check()
            if recording is not None:
                recording.rooms.adapt(self._number)
        return report

    def _is_looked_at(self, done: int) -> bool:
        """Early ones too: at first much changes."""
        early = done < LOOK_EVERY and done.bit_count() == 1  # 1, 2, 4, ...
        return early or done % LOOK_EVERY == 0 or done in self.settings.kept_steps()

    def _occupy(self) -> None:
        """Refresh the occupancy grid."""
        room = None if self.recording is None else self.recording.rooms.cells
        needed = self.occupancy.refresh(self.surface, room)
        if self.recording is not None:
            self.recording.rooms.note_cells(needed)

    def _planes(
        self,
        patches: Patches,
        inv_s: Float[Tensor, ""],
        spacing: Float[Tensor, ""],
        jitter: Float[Tensor, "P"],
    ) -> Planes:
        """All planes; as many as there is room for, if there are rooms."""
        given = patches, self.occupancy, self.occupancy.truncation(inv_s), spacing, jitter
        rooms = None if self.recording is None else self.recording.rooms
        if rooms is None or rooms.planes is None:
            planes = march(*given)
            needed = planes.offsets[-1]
        else:
            planes, needed = march_padded(rooms.planes, *given)
        if rooms is not None:
            rooms.note_planes(needed)
        return planes

    def _body(self) -> StepReport:
        """The step whose number the clock shows: all of it is done on the device."""
        settings, phase = self.settings, schedule.phase_number(self._number, self.settings)
        now = self.schedule.index_select(0, self.clock[None])[0]
        spacing, width = now[3], now[4]
        weights = settings.phases[phase].weights
        draws = Draws(settings.seed, self.clock)
        batch = self.sampler.draw(settings.patches, draws)
        c2w = self.poses()
        patches = patch_rays(batch, c2w)
        inv_s = self._sharpness(width)
        planes = self._planes(patches, inv_s, spacing, batch.jitter)
        rendering = render(self.surface, patches, planes, inv_s, settings.rendering)
        terms = self.objective.terms(weights, batch, c2w, rendering, draws)
        self._names[phase] = list(terms)
        every = torch.stack(list(terms.values()))
        loss = (every * self._weights(phase)).sum()
        self.updates.forget_gradients()
        loss.backward()
        every = every.detach()
        self.updates.make(self.clock, every, now[:3])
        self.clock.add_(1)
        known = dict(zip(terms, every.unbind(), strict=True))
        return StepReport(loss.detach(), known, rendering.intervals, inv_s.detach())

    def _weights(self, phase: int) -> Float[Tensor, "T"]:
        """Of a phase's terms."""
        if phase not in self._phase_weights:
            weights = self.settings.phases[phase].weights
            found = [getattr(weights, name) for name in self._names[phase]]
            self._phase_weights[phase] = torch.tensor(found, device=self.device)
        return self._phase_weights[phase]

    def _sharpness(self, scheduled: Float[Tensor, ""]) -> Float[Tensor, ""]:
        if self.settings.sharpness.mode == "learned":
            return torch.exp(10 * self.variance).clamp(1e-6, 1e6)
        return scheduled

    def check(self) -> None:
        """Raise DivergenceError if a value was not finite. Waits for the device."""
        failed = int(self.updates.failed)
        if failed < 0:
            return
        names = self._names[schedule.phase_number(failed, self.settings)]
        finite = self.updates.finite.tolist()
        broken = [name for name, ok in zip(names, finite, strict=False) if not ok]
        what = f"the term '{broken[0]}'" if broken else "the gradient (every term is finite)"
        raise DivergenceError(
            f"step {failed}: {what} is not finite; lower the learning rate or look at the input "
            "normals"
        )

    def state(self) -> dict[str, Any]:
        """Everything that the remaining steps depend on. Raises DivergenceError as `check`."""
        self.check()
        state = {
            "step": self._number,
            "network": self.network.state_dict(),
            "variance": self.variance.detach(),
            "poses": self.poses.state_dict(),
            "scales": self.scales.state_dict(),
            "updates": self.updates.state(),
            "occupancy": self.occupancy.values,
        }
        if self.recording is not None:
            state["rooms"] = self.recording.rooms.state()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state: the steps that follow are bit for bit those of the first run, if
        both are recorded or neither is."""
        self.step_number = state["step"]
        self.network.load_state_dict(state["network"])
        self.variance.data.copy_(state["variance"])
        self.poses.load_state_dict(state["poses"])
        self.scales.load_state_dict(state["scales"])
        self.updates.restore(state["updates"])
        self.occupancy.values.copy_(state["occupancy"])
        if self.recording is not None:
            self.recording.step.forget()
            self.recording.refresh.forget()
            if "rooms" in state:
                self.recording.rooms.restore(state["rooms"])
