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

METHODS: Registry[Any] = Registry(
    "method",
    "pmni.registration_methods",
    {
        "from_scratch": "pmni.registration.methods.from_scratch:METHOD",
        "turntable": "pmni.registration.methods.turntable:METHOD",
        "reference": "pmni.registration.methods.reference:METHOD",
        "noisy": "pmni.registration.methods.noisy:METHOD",
    },
)
"""Ways to initial poses: instances of `pmni.registration.methods.method.Method`."""

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

EXTRACTORS: Registry[Any] = Registry(
    "mesh extractor",
    "pmni.mesh_extractors",
    {
        "marching_cubes": "pmni.meshing.sparse_marching_cubes:make_extractor",
        "pymcubes": "pmni.meshing.pymcubes:make_extractor",
        "skimage": "pmni.meshing.scikit_image:make_extractor",
        "open3d": "pmni.meshing.open3d:make_extractor",
    },
)
"""Mesh extractors: functions without arguments that return a `pmni.meshing.extractor.Extractor`,
and raise MissingBackendError where the library that it needs is not installed."""

METRICS: Registry[Any] = Registry(
    "metric",
    "pmni.metrics",
    {
        "chamfer_mm": "pmni.evaluation.metrics.surface:CHAMFER",
        "chamfer_percent": "pmni.evaluation.metrics.surface:CHAMFER_PERCENT",
        "fscore": "pmni.evaluation.metrics.surface:FSCORE",
        "mae_deg": "pmni.evaluation.metrics.normals:MAE",
        "mae_heldout_deg": "pmni.evaluation.metrics.normals:MAE_HELDOUT",
        "mae_training_deg": "pmni.evaluation.metrics.normals:MAE_TRAINING",
        "median_deg": "pmni.evaluation.metrics.normals:MEDIAN",
        "rotation_error_mean_deg": "pmni.evaluation.metrics.poses:ROTATION_MEAN",
        "rotation_error_max_deg": "pmni.evaluation.metrics.poses:ROTATION_MAX",
        "translation_error_percent": "pmni.evaluation.metrics.poses:TRANSLATION",
        "rotation_error_cameras_mean_deg": "pmni.evaluation.metrics.poses:ROTATION_MEAN_CAMERAS",
        "rotation_error_cameras_max_deg": "pmni.evaluation.metrics.poses:ROTATION_MAX_CAMERAS",
        "translation_error_cameras_percent": "pmni.evaluation.metrics.poses:TRANSLATION_CAMERAS",
        "rotation_error_initial_mean_deg": "pmni.evaluation.metrics.poses:ROTATION_MEAN_INITIAL",
        "rotation_error_initial_max_deg": "pmni.evaluation.metrics.poses:ROTATION_MAX_INITIAL",
        "translation_error_initial_percent": "pmni.evaluation.metrics.poses:TRANSLATION_INITIAL",
        "vertices": "pmni.evaluation.metrics.mesh:VERTICES",
        "watertight": "pmni.evaluation.metrics.mesh:WATERTIGHT",
        "diameter_mm": "pmni.evaluation.metrics.surface:DIAMETER",
        "accuracy_mm": "pmni.evaluation.metrics.surface:ACCURACY",
        "completeness_mm": "pmni.evaluation.metrics.surface:COMPLETENESS",
        "missed": "pmni.evaluation.metrics.surface:MISSED",
        "refine_seconds": "pmni.evaluation.metrics.cost:REFINE_SECONDS",
        "train_seconds": "pmni.evaluation.metrics.cost:TRAIN_SECONDS",
        "total_seconds": "pmni.evaluation.metrics.cost:TOTAL_SECONDS",
        "peak_memory_mb": "pmni.evaluation.metrics.cost:PEAK_MEMORY",
    },
)
"""Numbers of the benchmark table: instances of `pmni.evaluation.metrics.Metric`, `CostMetric` or
`MetricFamily`, whose names are the columns, in the order of the columns."""

EXPORTERS: Registry[Any] = Registry(
    "exporter",
    "pmni.exporters",
    {
        "supernormal": "pmni.exporting.supernormal:EXPORTER",
        "poses": "pmni.exporting.poses:EXPORTER",
        "neus": "pmni.exporting.neus:EXPORTER",
        "points": "pmni.exporting.points:EXPORTER",
        "nerfstudio": "pmni.exporting.nerfstudio:EXPORTER",
        "colmap": "pmni.exporting.colmap:EXPORTER",
    },
)
"""File formats of `export`: instances of `pmni.exporting.Exporter`, written in this order."""
