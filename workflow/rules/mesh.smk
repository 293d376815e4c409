rule mesh:
    input:
        capture=capture_of,
        surface=made_with(checkpoint_of),
    output:
        mesh="<results>/{experiment}/{object}/meshes/iter_{iteration}.ply",
        provenance="<results>/{experiment}/{object}/meshes/iter_{iteration}.provenance.json",
    log:
        "<results>/logs/mesh/{experiment}/{object}/iter_{iteration}.log",
    conda:
        "../envs/pmni.yaml"
    resources:
        gpu=gpus("mesh"),
        cpus_per_gpu=4,
        mem_mb=8000,
        runtime=30,
    params:
        version=STAGES["mesh"].version,
        settings=lambda wildcards: experiment_of(wildcards).mesh.model_dump_json(),
        capture=subpath(input.capture, parent=True),
        checkpoint=checkpoint_of,
    shell:
        "pmni mesh --capture {params.capture:q} --checkpoint {params.checkpoint:q}"
        " --settings {params.settings:q} --output {output.mesh:q} > {log:q} 2>&1"
