rule fetch:
    input:
        # Only a change of the data set's own entry fetches it again (see params).
        registry=ancient(RESOURCES.registry),
        archive=lambda wildcards: CONFIG.archives.get(wildcards.dataset, []),
    output:
        touch(RESOURCES.fetched("{dataset}")),
    log:
        RESULTS.log("fetch", "{dataset}"),
    conda:
        "../envs/pmni.yaml"
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        version=STAGES["fetch"].version,
        entry=lambda wildcards: json.dumps(PLAN.downloadable.get(wildcards.dataset)),
        archive=lambda wildcards, input: option("--archive", input.archive),
        folder=subpath(output[0], parent=True),
    shell:
        "pmni fetch --registry {input.registry:q} --dataset {wildcards.dataset:q}"
        " {params.archive:q} --output {params.folder:q} > {log:q} 2>&1"
