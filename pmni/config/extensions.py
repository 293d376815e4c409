"""The project's extension points: registries of "module:attribute", which import nothing."""

from typing import Any

from pmni.registry import Registry

READERS: Registry[Any] = Registry(
    "layout",
    "pmni.readers",
    {
        "supernormal": "pmni.data.readers.supernormal:READER",
        "diligent_mv": "pmni.data.readers.diligent_mv:READER",
        "custom": "pmni.data.readers.custom:READER",
    },
)
"""Layouts of dataset folders: instances of `pmni.data.readers.Reader`, asked in this order."""

LOSSES: Registry[Any] = Registry(
    "loss",
    "pmni.losses",
    {
        "normal": "pmni.training.losses.normal:NormalLoss",
        "mask": "pmni.training.losses.mask:MaskLoss",
        "eikonal": "pmni.training.losses.eikonal:EikonalLoss",
        "depth": "pmni.training.losses.depth:DepthLoss",
        "surface": "pmni.training.losses.surface:SurfaceLoss",
        "chamfer": "pmni.training.losses.chamfer:ChamferLoss",
        "depth_robust": "pmni.training.losses.depth_robust:RobustDepthLoss",
        "consistency": "pmni.training.losses.consistency:ConsistencyLoss",
        "correction": "pmni.training.losses.correction:CorrectionLoss",
    },
)
"""Loss terms of `train`, subclasses of `pmni.training.losses.base.Loss`, in the order of their
sum."""

ENCODINGS: Registry[Any] = Registry(
    "encoding",
    "pmni.encodings",
    {
        "hash_grid": "pmni.sdf.hash_grid:make_hash_grid",
        "none": "pmni.sdf.no_encoding:NoEncoding",
    },
)
"""Encodings of the neural SDF's input: functions of (FieldSettings, seed) that return a
`pmni.sdf.encoding.Encoding`."""
