rule render:
    input:
        capture=capture_of,
        surface=made_with(checkpoint_of),
        poses=made_with(poses_of),
    output:
        directory("<results>/{experiment}/{object}/renders/iter_{iteration}"),
    log:
        "<results>/logs/render/{experiment}/{object}/iter_{iteration}.log",
    conda:
        "../envs/pmni.yaml"
    resources:
        gpu=gpus("render"),
        cpus_per_gpu=4,
        mem_mb=8000,
        runtime=60,
    params:
        version=STAGES["render"].version,
        settings=lambda wildcards: experiment_of(wildcards).render.model_dump_json(),
        capture=subpath(input.capture, parent=True),
        checkpoint=checkpoint_of,
        poses=poses_of,
    shell:
        "pmni render --capture {params.capture:q} --checkpoint {params.checkpoint:q}"
        " --poses {params.poses:q} --settings {params.settings:q} --output {output:q}"
        " > {log:q} 2>&1"
