rule mesh:
    input:
        capture=capture_of,
        surface=surface_of,
    output:
        mesh=OBJECT.mesh("{iteration}"),
        provenance=OBJECT.mesh_provenance("{iteration}"),
    log:
        RESULTS.log("mesh", "{experiment}", "{object}", ITERATION),
    conda:
        "../envs/pmni.yaml"
    resources:
        gpu=gpus("mesh"),
        cpus_per_gpu=4,
        mem_mb=8000,
        runtime=30,
    params:
        version=STAGES["mesh"].version,
        settings=settings_of("mesh"),
        capture=subpath(input.capture, parent=True),
        checkpoint=checkpoint_path,
    shell:
        "pmni mesh --capture {params.capture:q} --checkpoint {params.checkpoint:q}"
        " --settings {params.settings:q} --output {output.mesh:q} > {log:q} 2>&1"
