"""Pose-free multi-view normal integration: from normal maps to a mesh and camera poses.

    import pmni

    capture = pmni.Capture.load("data/vase")
    result = pmni.reconstruct(capture, experiment="fast", progress=print)
    result.mesh, result.cameras

Names are imported when they are first used, so that `import pmni` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pmni.api import (
        evaluate,
        extract_mesh,
        integrate,
        reconstruct,
        refine,
        register,
        train,
    )
    from pmni.config.experiment import Experiment, experiment_names, load_experiment
    from pmni.data.capture import Capture
    from pmni.errors import PmniError
    from pmni.geometry.cameras import Camera
    from pmni.geometry.mesh import Mesh
    from pmni.geometry.poses import Poses
    from pmni.reconstruction import Reconstruction, RenderedView

__version__ = "0.1.0"

__all__ = [
    "Camera",
    "Capture",
    "Experiment",
    "Mesh",
    "PmniError",
    "Poses",
    "Reconstruction",
    "RenderedView",
    "__version__",
    "evaluate",
    "experiment_names",
    "extract_mesh",
    "integrate",
    "load_experiment",
    "reconstruct",
    "refine",
    "register",
    "train",
]

_MODULES = {
    "Camera": "pmni.geometry.cameras",
    "Capture": "pmni.data.capture",
    "Experiment": "pmni.config.experiment",
    "Mesh": "pmni.geometry.mesh",
    "PmniError": "pmni.errors",
    "Poses": "pmni.geometry.poses",
    "Reconstruction": "pmni.reconstruction",
    "RenderedView": "pmni.reconstruction",
    "experiment_names": "pmni.config.experiment",
    "load_experiment": "pmni.config.experiment",
}
"""Where each public name is defined, if not in `pmni.api`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pmni' has no attribute '{name}'")
    value = getattr(import_module(_MODULES.get(name, "pmni.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
