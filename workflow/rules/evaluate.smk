rule evaluate:
    input:
        capture=capture_of,
        mesh="<results>/{experiment}/{object}/meshes/iter_{iteration}.ply",
        poses=made_with(poses_of),
        initial_poses="<results>/{experiment}/{object}/register/initial_poses.json",
        provenance=provenance_of,
    output:
        metrics="<results>/{experiment}/{object}/metrics/iter_{iteration}.json",
        errors="<results>/{experiment}/{object}/metrics/iter_{iteration}.errors.npz",
        provenance="<results>/{experiment}/{object}/metrics/iter_{iteration}.provenance.json",
    log:
        "<results>/logs/evaluate/{experiment}/{object}/iter_{iteration}.log",
    conda:
        "../envs/pmni.yaml"
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        version=STAGES["evaluate"].version,
        settings=lambda wildcards: experiment_of(wildcards).evaluate.model_dump_json(),
        capture=subpath(input.capture, parent=True),
        poses=poses_of,
        dataset=lambda wildcards: OBJECTS[wildcards.object].dataset,
    shell:
        "pmni evaluate --capture {params.capture:q} --mesh {input.mesh:q}"
        " --poses {params.poses:q} --initial-poses {input.initial_poses:q}"
        " --settings {params.settings:q}"
        " --experiment {wildcards.experiment:q} --iteration {wildcards.iteration}"
        " --dataset {params.dataset:q} --provenance {input.provenance:q}"
        " --output {output.metrics:q} > {log:q} 2>&1"
