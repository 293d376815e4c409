rule synthesize:
    input:
        mesh=mesh_of_scene,
    output:
        "resources/{dataset}/{object}/K.txt",
    log:
        "<results>/logs/synthesize/{dataset}/{object}.log",
    conda:
        "../envs/pmni.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        version=STAGES["synthesize"].version,
        settings=lambda wildcards: CONFIG.scenes[wildcards.object].model_dump_json(),
        folder=subpath(output[0], parent=True),
    shell:
        "pmni synthesize --settings {params.settings:q} --output {params.folder:q}"
        " > {log:q} 2>&1"
