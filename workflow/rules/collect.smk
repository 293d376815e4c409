rule collect:
    input:
        metrics=metrics_files(),
        selections=there(selection_files()),
        published=CONFIG.published or [],
    output:
        report(
            "<results>/benchmark.csv",
            caption="../report/benchmark.rst",
            category="Benchmark",
        ),
    log:
        "<results>/logs/collect.log",
    conda:
        "../envs/pmni.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        version=STAGES["collect"].version,
        selections=selection_files(),
        published=lambda wildcards, input: (
            ["--published", input.published] if input.published else []
        ),
    shell:
        "pmni collect --metrics {input.metrics:q} --selections {params.selections:q}"
        " {params.published:q} --output {output:q} > {log:q} 2>&1"
