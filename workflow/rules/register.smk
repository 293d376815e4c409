rule register:
    input:
        capture=capture_of,
        ray_distances=needed_by_registration,
    output:
        poses="<results>/{experiment}/{object}/register/initial_poses.json",
        provenance="<results>/{experiment}/{object}/register/provenance.json",
    log:
        "<results>/logs/register/{experiment}/{object}.log",
    conda:
        "../envs/pmni.yaml"
    threads: 3
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        version=STAGES["register"].version,
        settings=lambda wildcards: experiment_of(wildcards).registration.model_dump_json(),
        capture=subpath(input.capture, parent=True),
        ray_distances=lambda wildcards, input: [
            word
            for file in input.ray_distances
            for word in ("--ray-distances", str(Path(file).parent))
        ],
        folder=subpath(output.poses, parent=True),
    shell:
        "pmni register --capture {params.capture:q} {params.ray_distances:q}"
        " --settings {params.settings:q} --output {params.folder:q} > {log:q} 2>&1"
