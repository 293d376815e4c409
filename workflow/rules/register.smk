rule register:
    input:
        capture=capture_of,
        ray_distances=lambda wildcards: job(wildcards).registration_inputs,
    output:
        poses=OBJECT.registration.poses,
        provenance=OBJECT.registration.provenance,
    log:
        RESULTS.log("register", "{experiment}", "{object}"),
    conda:
        "../envs/pmni.yaml"
    threads: 3
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        version=STAGES["register"].version,
        settings=settings_of("registration"),
        capture=subpath(input.capture, parent=True),
        ray_distances=lambda wildcards, input: option(
            "--ray-distances", [str(Path(file).parent) for file in input.ray_distances]
        ),
        folder=subpath(output.poses, parent=True),
    shell:
        "pmni register --capture {params.capture:q} {params.ray_distances:q}"
        " --settings {params.settings:q} --output {params.folder:q} > {log:q} 2>&1"
