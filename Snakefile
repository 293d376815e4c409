from snakemake.utils import min_version

min_version("9.14")


configfile: "config/config.yaml"


include: "workflow/rules/common.smk"


report: "workflow/report/workflow.rst"


localrules:
    all,
    fetch,
    collect,


wildcard_constraints:
    object=one_of(PLAN.objects),
    experiment=one_of(PLAN.experiments),
    dataset=r"[^/]+",
    normals=r"[^/]+",
    iteration=r"\d{8}",


rule all:
    default_target: True
    input:
        RESULTS.benchmark,
        PLAN.summary,


if not CONFIG.available_only:

    include: "workflow/rules/fetch.smk"
    include: "workflow/rules/synthesize.smk"
    include: "workflow/rules/prepare.smk"
    include: "workflow/rules/integrate.smk"
    include: "workflow/rules/register.smk"
    include: "workflow/rules/refine.smk"
    include: "workflow/rules/train.smk"
    include: "workflow/rules/mesh.smk"
    include: "workflow/rules/render.smk"
    include: "workflow/rules/evaluate.smk"
    include: "workflow/rules/export.smk"


include: "workflow/rules/collect.smk"
include: "workflow/rules/report.smk"


if CONFIG.study is not None:

    include: "workflow/rules/study.smk"


onstart:
    prepare_jobs()


onerror:
    report_after_failure()
