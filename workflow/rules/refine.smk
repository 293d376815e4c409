rule refine:
    input:
        capture=capture_of,
        poses=OBJECT.registration.poses,
    output:
        poses=OBJECT.refinement.poses,
        surface=OBJECT.refinement.surface,
        checksum=OBJECT.refinement.surface_checksum,
        history=OBJECT.refinement.history,
        provenance=OBJECT.refinement.provenance,
    log:
        RESULTS.log("refine", "{experiment}", "{object}"),
    wildcard_constraints:
        experiment=one_of(PLAN.refined_experiments),
    conda:
        "../envs/pmni.yaml"
    threads: threads_of("refine")
    resources:
        gpu=gpus("refine"),
        cpus_per_gpu=4,
        mem_mb=16000,
        runtime=60,
    params:
        version=STAGES["refine"].version,
        settings=settings_of("refine"),
        capture=subpath(input.capture, parent=True),
        folder=subpath(output.poses, parent=True),
    shell:
        "pmni refine --capture {params.capture:q} --poses {input.poses:q}"
        " --settings {params.settings:q} --output {params.folder:q} > {log:q} 2>&1"
