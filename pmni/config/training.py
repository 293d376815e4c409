"""Settings of `train`."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from pmni.config.base import Settings


class FieldSettings(Settings):
    """The neural signed distance function."""

    encoding: Literal["hash_grid", "none"] = "hash_grid"
    """What the network sees beside the coordinates; `none` is the network of NeuS."""

    backend: Literal["auto", "torch", "triton", "tinycudann"] = "auto"
    """Who computes the hash grid, and the layer behind it if it is the only one; the parameters are
    the same. `auto` takes Triton's kernels on a GPU, unless `PMNI_KERNELS` says torch, and PyTorch
    on a CPU."""

    levels: int = Field(8, ge=1, le=24)
    """Resolutions of the hash grid."""

    features: int = Field(2, ge=1, le=8)
    """Features of a grid node at each level."""

    log2_entries: int = Field(19, ge=8, le=24)
    """Most entries of a level's table, as a power of two."""

    base_resolution: int = Field(16, ge=2)
    """Nodes along a side at the coarsest level."""

    growth: float = Field(1.5, gt=1)
    """Ratio of the resolutions of neighbouring levels."""

    initial_levels: int = Field(3, ge=1)
    """Levels that are switched on from the beginning."""

    increase_bandwidth_every: int = Field(130, ge=1)
    """Steps after which one more level is switched on."""

    layers: int = Field(1, ge=1)
    """Hidden layers."""

    width: int = Field(64, ge=4)
    """Units of a hidden layer."""

    skip: int = Field(0, ge=0)
    """The hidden layer that sees the inputs again; 0 means none."""

    weight_norm: bool = True
    """Whether the layers are weight-normalised."""

    initial_radius: float = Field(0.6, gt=0, le=1)
    """Radius of the sphere that the network starts as."""


class RenderingSettings(Settings):
    """How patches of rays are marched and composited."""

    backend: Literal["auto", "torch", "nerfacc"] = "auto"
    """Who computes weights and sums along rays. `auto` takes Triton's kernels on a GPU, unless
    `PMNI_KERNELS` says torch, and PyTorch on a CPU."""

    patch: int = Field(3, ge=1, le=16)
    """Pixels along a side of a patch; the rays of a patch share their planes."""

    gradient: Literal["analytic", "finite_difference", "directional"] = "directional"
    """Gradients of f: by automatic differentiation, by central differences in space, or from the
    differences between neighbouring rays' samples (SuperNormal, eq. 8-10; needs patch >= 2)."""

    epsilon: float = Field(5e-3, gt=0)
    """Step of `finite_difference`, normalised units."""

    step_start: float = Field(1e-2, gt=0)
    """Distance between planes at the first step; it shrinks log-linearly..."""

    step_end: float = Field(4e-3, gt=0)
    """... to this at the last step."""

    occupancy_resolution: int = Field(128, ge=8, multiple_of=4)
    """Cells along a side of the occupancy grid."""

    occupancy_every: int = Field(16, ge=1)
    """Steps between refreshes of the occupancy grid."""

    shell: float = Field(0.025, gt=0)
    """Samples are taken where |f| is below this, or less where the sharpness makes weights vanish
    earlier. PMNI: 0.0275, where sigmoid(-80 f) = 0.1."""


class LossWeights(Settings):
    """Weights of the terms of the loss; a term of weight zero is not computed."""

    normal: float = Field(1.0, ge=0)
    """Rendered against given normals."""

    depth: float = Field(0.0, ge=0)
    """Rendered against integrated ray distance, up to each view's scale (PMNI, eq. 13)."""

    depth_robust: float = Field(0.0, ge=0)
    """The same, both standardised by median and mean absolute deviation."""

    mask: float = Field(1.0, ge=0)
    """Binary cross-entropy of opacity and mask."""

    eikonal: float = Field(0.5, ge=0)
    """Unit gradient at the samples, in the mean over them."""

    consistency: float = Field(0.0, ge=0)
    """A surface point seen from two views has one world normal."""

    surface: float = Field(0.0, ge=0)
    """f vanishes at the back-projected integrated distances."""

    chamfer: float = Field(0.0, ge=0)
    """Back-projected points of neighbouring views lie on one another."""

    anchor: float = Field(1.0, ge=0)
    """The correction of a refined surface is small: its square near the surface, in cells. Normals
    say little about how far a surface is; without this it drifts."""


class PhaseSettings(Settings):
    """A part of the schedule with its own weights."""

    until: float = Field(1.0, gt=0, le=1)
    """Its end, as a fraction of all steps."""

    weights: LossWeights = LossWeights()
    """Loss weights."""

    pose_rate: float = Field(1e-3, ge=0)
    """Learning rate of the poses."""


class PoseSettings(Settings):
    """How cameras move."""

    method: Literal["adam", "gauss_newton", "fixed"] = "adam"
    """A left perturbation of each camera, Exp(xi) @ c2w, learned with the surface; now and then a
    Gauss-Newton step of all poses on the surface as it is; or not at all."""

    gauge: Literal["mean", "first"] = "mean"
    """`adam`: the common motion of all cameras is removed, or the first camera stays."""

    start: float = Field(0.0, ge=0, le=1)
    """Fraction of the steps after which poses begin to move."""

    every: int = Field(50, ge=1)
    """`gauss_newton`: steps from one of the poses' to the next."""

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
    """What the network starts from."""

    source: Literal["sphere", "hull", "surface"] | None = None
    """Nothing (the geometric initialisation), the tolerant visual hull of the masks, or the refined
    surface, which is not fitted: the network corrects it. None takes the surface if there is one,
    and the hull if not."""

    resolution: int = Field(64, ge=16)
    """Nodes along a side of the hull's grid."""

    ignore: int = Field(1, ge=0)
    """How many views may carve a point away without effect."""

    steps: int = Field(150, ge=1)
    """Optimiser steps of the fit."""

    points: int = Field(8192, ge=64)
    """Points of a step of the fit."""


class TrainSettings(Settings):
    """How surface and poses are optimised."""

    steps: int = Field(1000, ge=1)
    """Optimiser steps."""

    checkpoints: tuple[int, ...] = ()
    """Steps whose state is kept for `mesh` and `render`, besides the last."""

    early_stop: float | None = Field(None, gt=0)
    """Stop before the last step when in 50 steps the surface moves by less than this many pixels on
    average; the iterations that are still to come are then what it is. None: never."""

    patches: int = Field(2048, ge=1)
    """Patches of a step, over all views."""

    margin: int = Field(4, ge=0)
    """Patches are drawn from the masks grown by this many pixels."""

    background: float = Field(0.25, ge=0, lt=1)
    """The part of the patches that is centred in that margin."""

    exclude_views: tuple[str, ...] = ()
    """Views held out from training."""

    heldout: float = Field(0.0, ge=0, le=0.5)
    """Part of the blocks of pixels of each view that is not trained on: their normals tell whether
    the trained surface is better than the refined one. `refine` has to hold out the same part."""

    normal_norm: Literal["l1", "l2"] = "l2"
    """The norm of the normal term."""

    rate: float = Field(1e-3, gt=0)
    """Learning rate of the network."""

    grid_rate: float | None = Field(3e-3, gt=0)
    """Learning rate of the encoding; None takes `rate`."""

    warm_up: int = Field(50, ge=0)
    """Steps of linear warm-up."""

    final_rate: float = Field(0.05, gt=0, le=1)
    """Fraction of the learning rates that the cosine ends at."""

    clip_field: float = Field(1.0, gt=0)
    """Largest gradient norm of the network."""

    clip_poses: float = Field(10.0, gt=0)
    """Largest gradient norm of the poses."""

    field: FieldSettings = FieldSettings()
    """The signed distance function."""

    rendering: RenderingSettings = RenderingSettings()
    """Marching and compositing."""

    phases: tuple[PhaseSettings, ...] = (PhaseSettings(),)
    """The schedule of the weights."""

    poses: PoseSettings = PoseSettings()
    """The cameras."""

    sharpness: SharpnessSettings = SharpnessSettings()
    """inv_s."""

    warm_start: WarmStartSettings = WarmStartSettings()
    """The start of the surface."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU when there is one; `cuda` without a GPU is an error."""

    graph: Literal["auto", "on", "off"] = "auto"
    """Whether steps are recorded and replayed as CUDA graphs. `auto`: on a GPU, unless a term
    (chamfer, consistency, depth_robust) or a backend needs to know sizes in between; `on` makes
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
    def _words(cls, value: object) -> object:
        """YAML reads on and off as truth values."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

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
