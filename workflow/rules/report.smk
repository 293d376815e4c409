rule report:
    input:
        PLAN.reported_files(),
        benchmark=RESULTS.benchmark,
    output:
        RESULTS.report,
    log:
        RESULTS.log("report"),
    conda:
        "../envs/pmni.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        version=STAGES["report"].version,
        config=PLAN.reported_run().model_dump_json(),
        results=subpath(input.benchmark, parent=True),
        folder=subpath(output[0], parent=True),
    shell:
        "pmni report --results {params.results:q} --config-json {params.config:q}"
        " --output {params.folder:q} > {log:q} 2>&1"
