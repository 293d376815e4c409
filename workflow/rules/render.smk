rule render:
    input:
        capture=capture_of,
        surface=surface_of,
        poses=poses_of,
    output:
        directory(OBJECT.renders("{iteration}")),
    log:
        RESULTS.log("render", "{experiment}", "{object}", ITERATION),
    conda:
        "../envs/pmni.yaml"
    resources:
        gpu=gpus("render"),
        cpus_per_gpu=4,
        mem_mb=8000,
        runtime=60,
    params:
        version=STAGES["render"].version,
        settings=settings_of("render"),
        capture=subpath(input.capture, parent=True),
        checkpoint=checkpoint_path,
        poses=poses_path,
    shell:
        "pmni render --capture {params.capture:q} --checkpoint {params.checkpoint:q}"
        " --poses {params.poses:q} --settings {params.settings:q} --output {output:q}"
        " > {log:q} 2>&1"
