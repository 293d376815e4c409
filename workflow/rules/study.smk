STUDY = StudyFolder(Path(CONFIG.study.output))


rule study:
    input:
        RESULTS.benchmark,
    output:
        STUDY.summary,
        STUDY.table,
        [STUDY.plot(name) for name in CONFIG.study.plots],
    log:
        RESULTS.log("study"),
    conda:
        "../envs/pmni.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        version=STAGES["study"].version,
        settings=CONFIG.study.model_dump_json(),
        experiments=list(PLAN.experiments),
        only=list(CONFIG.only),
        logs=str(RESULTS.logs),
        folder=subpath(output[0], parent=True),
    shell:
        "pmni study --benchmark {input:q} --logs {params.logs:q} --settings {params.settings:q}"
        " --experiments {params.experiments:q} --only {params.only:q}"
        " --output {params.folder:q} > {log:q} 2>&1"
