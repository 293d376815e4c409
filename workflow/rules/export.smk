rule export:
    input:
        capture=capture_of,
        initial_poses="<results>/{experiment}/{object}/register/initial_poses.json",
        poses=each_candidate(made_with(poses_of)),
        meshes=each_candidate(mesh_of),
        selection=selection_of,
    output:
        poses="<results>/{experiment}/{object}/export/poses.json",
        cameras="<results>/{experiment}/{object}/export/cameras_sphere.npz",
        picture=report(
            "<results>/{experiment}/{object}/export/cameras.png",
            caption="../report/cameras.rst",
            category="Cameras",
            labels={"object": "{object}", "experiment": "{experiment}"},
        ),
        provenance="<results>/{experiment}/{object}/export/provenance.json",
    log:
        "<results>/logs/export/{experiment}/{object}.log",
    conda:
        "../envs/pmni.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        version=STAGES["export"].version,
        capture=subpath(input.capture, parent=True),
        poses=each_candidate(poses_of),
        iterations=lambda wildcards: experiment_of(wildcards).candidates(),
        selection=lambda wildcards, input: (
            ["--selection", *input.selection] if input.selection else []
        ),
        folder=subpath(output.poses, parent=True),
    shell:
        "pmni export --capture {params.capture:q} --poses {params.poses:q}"
        " --mesh {input.meshes:q} --iterations {params.iterations} {params.selection:q}"
        " --initial-poses {input.initial_poses:q} --output {params.folder:q} > {log:q} 2>&1"
