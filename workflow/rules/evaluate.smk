rule evaluate:
    input:
        capture=capture_of,
        mesh=OBJECT.mesh("{iteration}"),
        poses=poses_of,
        initial_poses=OBJECT.registration.poses,
        provenance=lambda wildcards: job(wildcards).provenance(int(wildcards.iteration)),
    output:
        metrics=OBJECT.metrics("{iteration}"),
        errors=OBJECT.error_maps("{iteration}"),
        provenance=OBJECT.metrics_provenance("{iteration}"),
    log:
        RESULTS.log("evaluate", "{experiment}", "{object}", ITERATION),
    conda:
        "../envs/pmni.yaml"
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        version=STAGES["evaluate"].version,
        settings=settings_of("evaluate"),
        capture=subpath(input.capture, parent=True),
        poses=poses_path,
        dataset=lambda wildcards: job(wildcards).entry.dataset,
    shell:
        "pmni evaluate --capture {params.capture:q} --mesh {input.mesh:q}"
        " --poses {params.poses:q} --initial-poses {input.initial_poses:q}"
        " --settings {params.settings:q}"
        " --experiment {wildcards.experiment:q} --iteration {wildcards.iteration}"
        " --dataset {params.dataset:q} --provenance {input.provenance:q}"
        " --output {output.metrics:q} > {log:q} 2>&1"
