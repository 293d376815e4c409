"""Settings of `train`."""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from pmni.config.base import Settings
from pmni.config.extensions import ENCODINGS, LOSSES

Weight = Annotated[float, Field(ge=0)]


class FieldSettings(Settings):
    """The neural signed distance function."""

    encoding: str = "hash_grid"
    """What the network sees beside the coordinates: `hash_grid` (Instant-NGP), `none` (as in NeuS),
    or an encoding of an installed package."""

    backend: Literal["auto", "torch", "triton", "tinycudann"] = "auto"
    """Implementation of the hash grid, and of the network if it has one hidden layer; the
    parameters are the same. `auto`: Triton kernels on a GPU, unless `PMNI_KERNELS` says torch, and
    PyTorch on a CPU."""

    levels: int = Field(8, ge=1, le=24)
    """Resolutions of the hash grid."""

    features: int = Field(2, ge=1, le=8)
    """Features of a grid node at each level."""

    log2_entries: int = Field(19, ge=8, le=24)
    """Largest number of entries of a level's table, as a power of two."""

    base_resolution: int = Field(16, ge=2)
    """Nodes along a side at the coarsest level."""

    growth: float = Field(1.5, gt=1)
    """Ratio of the resolutions of neighbouring levels."""

    initial_levels: int = Field(3, ge=1)
    """Levels that are active from the beginning."""

    increase_bandwidth_every: int = Field(130, ge=1)
    """Steps after which one more level becomes active."""

    layers: int = Field(1, ge=1)
    """Hidden layers."""

    width: int = Field(64, ge=4)
    """Units of a hidden layer."""

    skip: int = Field(0, ge=0)
    """Index of the layer that sees the inputs again (skip connection); 0 means none."""

    weight_norm: bool = True
    """Whether the layers are weight-normalised."""

    initial_radius: float = Field(0.6, gt=0, le=1)
    """Radius of the sphere that the geometric initialisation gives, normalised units."""

    @field_validator("encoding")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        return ENCODINGS.check(name)


class OccupancySettings(Settings):
    """The occupancy grid: where samples along the rays are placed."""

    resolution: int = Field(128, ge=8, multiple_of=4)
    """Cells along a side of the box."""

    refresh_every: int = Field(16, ge=1)
    """Steps between refreshes."""

    truncation: float = Field(0.025, gt=0)
    """Largest |f| at which samples are placed, normalised units. Where the density is sharper,
    `density_tails` limits it further. PMNI: 0.0275, where sigmoid(-80 f) = 0.1."""

    density_tails: float = Field(5.0, gt=0)
    """Samples are placed where |f| inv_s is below this: the weights beyond it add up to less than
    exp(-5) before the surface, and as much behind it."""

    max_slope: float = Field(0.1, gt=0)
    """Intervals in which f grows faster than this along the ray are left out: there the ray leaves
    the object."""

    lipschitz_bound: float = Field(1.5, gt=0)
    """Assumed bound of |grad f|, with which a coarse cell tells that no sample is needed in it."""


class RenderingSettings(Settings):
    """Marching and compositing of patches of rays."""

    deprecated_names: ClassVar[dict[str, str]] = {
        "occupancy_resolution": "occupancy.resolution",
        "occupancy_every": "occupancy.refresh_every",
        "shell": "occupancy.truncation",
    }

    backend: Literal["auto", "torch", "nerfacc"] = "auto"
    """Implementation of weights and sums along rays. `auto`: Triton kernels on a GPU, unless
    `PMNI_KERNELS` says torch, and PyTorch on a CPU."""

    patch: int = Field(3, ge=1, le=16)
    """Pixels along a side of a patch; the rays of a patch share their planes."""

    gradient: Literal["analytic", "finite_difference", "directional"] = "directional"
    """Gradients of f: by automatic differentiation, by central differences in space, or from the
    differences between neighbouring rays' samples (SuperNormal, eq. 8-10; needs patch >= 2)."""

    epsilon: float = Field(5e-3, gt=0)
    """Step of `finite_difference`, normalised units."""

    step_start: float = Field(1e-2, gt=0)
    """Distance between planes at the first step, normalised units."""

    step_end: float = Field(4e-3, gt=0)
    """Distance between planes at the last step; between the two it is log-linear in the step."""

    occupancy: OccupancySettings = OccupancySettings()
    """Where samples are placed."""


class LossWeights(Settings):
    """Weights of the loss terms; a term of weight zero is not computed.

    Terms of installed packages (entry points `pmni.losses`) are given in the same way, by name.
    """

    model_config = ConfigDict(extra="allow")
    deprecated_names: ClassVar[dict[str, str]] = {"anchor": "correction"}
    __pydantic_extra__: dict[str, Weight] = Field(init=False)

    normal: Weight = 1.0
    """Rendered against measured normals."""

    mask: Weight = 1.0
    """Binary cross-entropy of opacity and mask."""

    eikonal: Weight = 0.5
    """(|grad f| - 1)^2, mean over all samples."""

    depth: Weight = 0.0
    """Rendered against integrated ray distances, up to each view's scale (PMNI, eq. 13)."""

    surface: Weight = 0.0
    """|f| at the back-projected integrated ray distances."""

    chamfer: Weight = 0.0
    """Chamfer distance between the back-projected points of neighbouring views."""

    depth_robust: Weight = 0.0
    """Rendered against integrated ray distances, both standardised by median and mean absolute
    deviation (MiDaS)."""

    consistency: Weight = 0.0
    """Multi-view normal consistency: a surface point seen from two views has one world normal."""

    correction: Weight = 1.0
    """Regulariser of a refined surface's correction: its square near the surface, in cells. Normals
    say little about how far a surface is; without this term it drifts."""

    @model_validator(mode="after")
    def _are_registered(self) -> "LossWeights":
        for name in self.__pydantic_extra__ or {}:
            LOSSES.check(name)
        return self

    def active(self) -> dict[str, float]:
        """Weights of the terms that are computed, in the registry's order."""
        weights = {name: getattr(self, name, 0.0) for name in LOSSES}
        return {name: weight for name, weight in weights.items() if weight}


class PhaseSettings(Settings):
    """A part of the schedule with its own weights."""

    deprecated_names: ClassVar[dict[str, str]] = {"pose_rate": "pose_learning_rate"}

    until: float = Field(1.0, gt=0, le=1)
    """End of the phase, as a fraction of all steps."""

    weights: LossWeights = LossWeights()
    """Loss weights."""

    pose_learning_rate: float = Field(1e-3, ge=0)
    """Learning rate of the poses."""


class PoseSettings(Settings):
    """Optimisation of the camera poses."""

    method: Literal["adam", "gauss_newton", "fixed"] = "adam"
    """`adam`: a left perturbation of each camera, Exp(xi) @ c2w, is learned with the surface;
    `gauss_newton`: every `every` steps all poses take a Gauss-Newton step on the present surface;
    `fixed`: poses stay."""

    gauge: Literal["mean", "first"] = "mean"
    """`adam`: the common motion of all cameras is removed, or the first camera stays."""

    start: float = Field(0.0, ge=0, le=1)
    """Fraction of the steps after which poses begin to move."""

    every: int = Field(50, ge=1)
    """`gauss_newton`: training steps between two steps of the poses."""

    redistancing_sweeps: int = Field(4, ge=0)
    """`gauss_newton`: sweeps of reinitialisation after the surface is resampled on a grid."""

    learn_scale: bool = False
    """Learn a scale of each view's ray distances (the last one's is 1), instead of the closed
    form."""


class SharpnessSettings(Settings):
    """inv_s, the inverse width of NeuS's logistic density."""

    mode: Literal["learned", "scheduled"] = "scheduled"
    """Learned as exp(10 variance), or log-linear in the step."""

    variance: float = 0.5
    """`learned`: the initial variance."""

    start: float = Field(150.0, gt=0)
    """`scheduled`: inv_s at the first step."""

    end: float = Field(800.0, gt=0)
    """`scheduled`: inv_s at the last step."""


class WarmStartSettings(Settings):
    """The surface that the network starts from, and how it is fitted to it."""

    source: Literal["sphere", "hull", "surface"] | None = None
    """`sphere`: the geometric initialisation; `hull`: the tolerant visual hull of the masks, to
    which the network is fitted; `surface`: the refined surface, of which the network learns a
    correction. None: `surface` if there is one, else `hull`."""

    resolution: int = Field(64, ge=16)
    """Nodes along a side of the hull's grid."""

    ignore: int = Field(1, ge=0)
    """Number of views that may carve a point away without effect."""

    steps: int = Field(150, ge=1)
    """Optimiser steps of the fit."""

    points: int = Field(8192, ge=64)
    """Points of a step of the fit: half of them near the surface, the others anywhere."""

    learning_rate: float = Field(5e-3, gt=0)
    """Learning rate of the fit."""

    near_cells: float = Field(2.0, gt=0)
    """Distance from the surface within which a node counts as near it, cells of the hull's grid."""

    weight_cells: float = Field(4.0, gt=0)
    """Distance from the surface at which a point's weight has halved, cells of the hull's grid."""


class OptimizerSettings(Settings):
    """Adam, its learning rates and its gradient clipping."""

    learning_rate: float = Field(1e-3, gt=0)
    """Learning rate of the network."""

    encoding_learning_rate: float | None = Field(3e-3, gt=0)
    """Learning rate of the encoding; None takes `learning_rate`."""

    warm_up_steps: int = Field(50, ge=0)
    """Steps of linear warm-up."""

    final_fraction: float = Field(0.05, gt=0, le=1)
    """Fraction of the learning rates at which the cosine schedule ends."""

    clip_network: float = Field(1.0, gt=0)
    """Largest gradient norm of network and encoding."""

    clip_poses: float = Field(10.0, gt=0)
    """Largest gradient norm of the poses."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's first and second moments."""

    epsilon: float = Field(1e-8, gt=0)
    """Adam's epsilon."""


class ConvergenceSettings(Settings):
    """When a training stops before its last step."""

    threshold: float | None = Field(None, gt=0)
    """Stop when the surface moves by less than this between two tests, pixels on average. Kept
    iterations that are still to come are then the surface as it is. None: never stop early."""

    every: int = Field(50, ge=1)
    """Steps between two tests."""

    points: int = Field(20_000, ge=100)
    """Approximate number of surface points whose motion is measured."""

    newton_steps: int = Field(3, ge=1)
    """Newton steps that bring the points onto the surface."""


class CorrectionSettings(Settings):
    """The regulariser of a refined surface's correction (weight `correction`)."""

    distance_cells: float = Field(1.5, gt=0)
    """Distance from the refined surface within which corrections are penalised, cells."""

    points: int = Field(4096, ge=1)
    """Points drawn in a step."""


class ConsistencySettings(Settings):
    """Multi-view normal consistency (weight `consistency`)."""

    min_opacity: float = Field(0.9, gt=0, lt=1)
    """Least rendered opacity of a pixel whose surface point is compared with another view."""

    visibility_tolerance: float = Field(5e-3, gt=0)
    """Distance that a point may be off the surface and still count as visible, normalised units."""


class SelectionSettings(Settings):
    """The choice between the refined and the trained surface by held-out normals."""

    significance: float = Field(2.0, ge=0)
    """Standard errors that the gain of the trained surface must exceed."""

    min_relative_gain: float = Field(1e-3, ge=0)
    """Part of the refined surface's error that the gain must exceed. Noise s of the normals and an
    error e of the surface make about sqrt(s^2 + e^2): with 5 degrees of noise, 1e-3 of that is an
    error of the surface of 0.87 instead of 0.9 degrees, which no mesh shows."""

    eroded_pixels: int = Field(2, ge=1)
    """Width of the border along the masks' contours that is left out, pixels: whether its rays hit
    says more about the masks than about the normals."""


class TrainSettings(Settings):
    """Optimisation of a neural surface and the poses by volume rendering."""

    deprecated_names: ClassVar[dict[str, str]] = {
        "rate": "optimizer.learning_rate",
        "grid_rate": "optimizer.encoding_learning_rate",
        "warm_up": "optimizer.warm_up_steps",
        "final_rate": "optimizer.final_fraction",
        "clip_field": "optimizer.clip_network",
        "clip_poses": "optimizer.clip_poses",
        "early_stop": "convergence.threshold",
    }

    steps: int = Field(1000, ge=1)
    """Optimiser steps."""

    checkpoints: tuple[int, ...] = ()
    """Steps, from 1 on, whose surface and poses are kept for `mesh` and `render`, besides the
    last."""

    patches: int = Field(2048, ge=1)
    """Patches of a step, over all views."""

    margin: int = Field(4, ge=0)
    """Width of the margin around the masks in which background patches are centred, pixels."""

    background: float = Field(0.25, ge=0, lt=1)
    """Fraction of the patches that is centred in that margin."""

    exclude_views: tuple[str, ...] = ()
    """Views held out from training."""

    heldout: float = Field(0.0, ge=0, le=0.5)
    """Fraction of the blocks of pixels of each view that is not trained on: their normals tell
    whether the trained surface is better than the refined one. `refine` has to hold out the same
    fraction."""

    normal_norm: Literal["l1", "l2"] = "l2"
    """The norm of the normal term."""

    optimizer: OptimizerSettings = OptimizerSettings()
    """Learning rates and clipping."""

    field: FieldSettings = FieldSettings()
    """The neural SDF: encoding and network."""

    rendering: RenderingSettings = RenderingSettings()
    """Marching and compositing."""

    phases: tuple[PhaseSettings, ...] = (PhaseSettings(),)
    """The schedule of the loss weights."""

    correction: CorrectionSettings = CorrectionSettings()
    """The regulariser of a refined surface's correction."""

    consistency: ConsistencySettings = ConsistencySettings()
    """Multi-view normal consistency."""

    poses: PoseSettings = PoseSettings()
    """The camera poses."""

    sharpness: SharpnessSettings = SharpnessSettings()
    """inv_s, the sharpness of the density."""

    warm_start: WarmStartSettings = WarmStartSettings()
    """The surface at the first step."""

    convergence: ConvergenceSettings = ConvergenceSettings()
    """When the training stops early."""

    selection: SelectionSettings = SelectionSettings()
    """The choice between the refined and the trained surface."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU when there is one; `cuda` without a GPU is an error."""

    graph: Literal["auto", "on", "off"] = "auto"
    """Whether steps are captured and replayed as CUDA graphs. `auto`: on a GPU, unless a loss term
    of dynamic shape (chamfer, consistency, depth_robust) or a backend rules it out; `on` makes
    that an error."""

    seed: int = Field(0, ge=0)
    """Seed of everything random."""

    deterministic: bool = False
    """Whether the same run on the same machine has the same results to the last bit, which is
    slower on a GPU. On a CPU it always has."""

    save_every: int = Field(1000, ge=1)
    """Steps between saves of the resumable state."""

    @field_validator("graph", mode="before")
    @classmethod
    def _from_yaml_boolean(cls, value: object) -> object:
        """YAML reads on and off as truth values."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @field_validator("checkpoints")
    @classmethod
    def _after_the_start(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        """Files of iteration 0 are those of the refined surface."""
        if any(step < 1 for step in steps):
            raise ValueError(
                f"step {min(steps)}: must be 1 or more, as 0 is what training starts from"
            )
        return steps

    @model_validator(mode="after")
    def _consistent(self) -> "TrainSettings":
        ends = [phase.until for phase in self.phases]
        if not ends or ends != sorted(set(ends)) or ends[-1] != 1:
            raise ValueError("the phases' `until` must ascend and end at 1")
        if self.rendering.gradient == "directional" and self.rendering.patch < 2:
            raise ValueError("gradient 'directional' needs rendering.patch >= 2")
        return self

    def kept_steps(self) -> tuple[int, ...]:
        """The steps whose checkpoints are kept, ascending; the last step is always among them."""
        return tuple(
            sorted({step for step in self.checkpoints if step < self.steps} | {self.steps})
        )
