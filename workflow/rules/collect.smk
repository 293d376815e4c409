rule collect:
    input:
        metrics=PLAN.metrics(),
        selections=PLAN.available_selections(),
        published=CONFIG.published or [],
    output:
        report(
            RESULTS.benchmark,
            caption="../report/benchmark.rst",
            category="Benchmark",
        ),
    log:
        RESULTS.log("collect"),
    conda:
        "../envs/pmni.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        version=STAGES["collect"].version,
        # Also those that are missing: no iteration of such a training counts as the result.
        selections=list(map(str, PLAN.selections())),
        published=lambda wildcards, input: option("--published", input.published),
    shell:
        "pmni collect --metrics {input.metrics:q} --selections {params.selections:q}"
        " {params.published:q} --output {output:q} > {log:q} 2>&1"
