rule refine:
    input:
        capture=capture_of,
        poses="<results>/{experiment}/{object}/register/initial_poses.json",
    output:
        poses="<results>/{experiment}/{object}/refine/refined_poses.json",
        surface="<results>/{experiment}/{object}/refine/surface.safetensors",
        checksum="<results>/{experiment}/{object}/refine/surface.safetensors.sha256",
        history="<results>/{experiment}/{object}/refine/history.csv",
        provenance="<results>/{experiment}/{object}/refine/provenance.json",
    log:
        "<results>/logs/refine/{experiment}/{object}.log",
    wildcard_constraints:
        experiment=one_of(REFINED),
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
        settings=lambda wildcards: experiment_of(wildcards).refine.model_dump_json(),
        capture=subpath(input.capture, parent=True),
        folder=subpath(output.poses, parent=True),
    shell:
        "pmni refine --capture {params.capture:q} --poses {input.poses:q}"
        " --settings {params.settings:q} --output {params.folder:q} > {log:q} 2>&1"
