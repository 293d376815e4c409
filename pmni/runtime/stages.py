"""The stages of the workflow: one subcommand and one Snakemake rule each.

Imports nothing heavy: the workflow reads the versions from here on every start.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One stage. `module` has `add_arguments(parser)` and `run(args)`.

    `version` is raised by hand whenever the stage's results change for the same inputs and
    settings: the workflow then reruns the stage and what depends on it.
    """

    name: str
    module: str
    version: int
    summary: str


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("fetch", "pmni.cli.fetch", 1, "download and unpack a data set"),
        Stage("synthesize", "pmni.cli.synthesize", 1, "render a capture with ground truth"),
        Stage("prepare", "pmni.cli.prepare", 3, "read, check and normalise a capture"),
        Stage("integrate", "pmni.cli.integrate", 3, "integrate normals to ray distances"),
        Stage("register", "pmni.cli.register", 8, "find initial camera poses"),
        Stage("refine", "pmni.cli.refine", 9, "refine the poses with a grid surface"),
        Stage("train", "pmni.cli.train", 6, "optimise the surface and the poses"),
        Stage("mesh", "pmni.cli.mesh", 3, "extract the surface of a checkpoint"),
        Stage("render", "pmni.cli.render", 4, "render normals and depth of a checkpoint"),
        Stage("evaluate", "pmni.cli.evaluate", 2, "compare with the ground truth"),
        Stage("export", "pmni.cli.export", 2, "write poses for other software"),
        Stage("collect", "pmni.cli.collect", 1, "gather all metrics in one table"),
        Stage("report", "pmni.cli.report", 3, "write the HTML report"),
        Stage("study", "pmni.cli.study", 1, "tables and plots of an accuracy study"),
    )
}
