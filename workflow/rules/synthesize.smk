rule synthesize:
    input:
        mesh=lambda wildcards: PLAN.scene_mesh(wildcards.object),
    output:
        directory(RESOURCES.object("{dataset}", "{object}")),
    log:
        RESULTS.log("synthesize", "{dataset}", "{object}"),
    wildcard_constraints:
        object=one_of(CONFIG.scenes),
    conda:
        "../envs/pmni.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        version=STAGES["synthesize"].version,
        settings=lambda wildcards: CONFIG.scenes[wildcards.object].model_dump_json(),
    shell:
        "pmni synthesize --settings {params.settings:q} --output {output:q} > {log:q} 2>&1"
