rule export:
    input:
        capture=capture_of,
        initial_poses=OBJECT.registration.poses,
        poses=lambda wildcards: list(map(job(wildcards).poses_made, candidates_of(wildcards))),
        meshes=lambda wildcards: list(map(job(wildcards).folder.mesh, candidates_of(wildcards))),
        selection=lambda wildcards: job(wildcards).selections,
    output:
        report(
            directory(OBJECT.export.folder),
            patterns=["{figure,cameras}.png"],
            caption="../report/cameras.rst",
            category="Cameras",
            labels={"object": "{object}", "experiment": "{experiment}"},
        ),
    log:
        RESULTS.log("export", "{experiment}", "{object}"),
    conda:
        "../envs/pmni.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        version=STAGES["export"].version,
        settings=settings_of("export"),
        capture=subpath(input.capture, parent=True),
        poses=candidate_poses,
        iterations=candidates_of,
        selection=lambda wildcards, input: option("--selection", input.selection),
    shell:
        "pmni export --capture {params.capture:q} --poses {params.poses:q}"
        " --mesh {input.meshes:q} --iterations {params.iterations} {params.selection:q}"
        " --initial-poses {input.initial_poses:q} --settings {params.settings:q}"
        " --output {output:q} > {log:q} 2>&1"
