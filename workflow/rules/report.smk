rule report:
    input:
        "<results>/benchmark.csv",
        reported_files(),
    output:
        "<results>/report/index.html",
    log:
        "<results>/logs/report.log",
    conda:
        "../envs/pmni.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        version=STAGES["report"].version,
        config=report_config(),
        results=lambda wildcards: CONFIG.results,
        folder=subpath(output[0], parent=True),
    shell:
        "pmni report --results {params.results:q} --config-json {params.config:q}"
        " --output {params.folder:q} > {log:q} 2>&1"
