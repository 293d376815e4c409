rule train:
    input:
        capture=capture_of,
        ray_distances=lambda wildcards: job(wildcards).integration.ray_distances,
        poses=lambda wildcards: job(wildcards).training_poses,
        surface=lambda wildcards: job(wildcards).refined_inputs,
    output:
        checkpoints=directory(OBJECT.training.checkpoints),
        poses=directory(OBJECT.training.poses_folder),
        tensorboard=directory(OBJECT.training.tensorboard),
        history=OBJECT.training.history,
        selection=OBJECT.training.selection,
        provenance=OBJECT.training.provenance,
    log:
        RESULTS.log("train", "{experiment}", "{object}"),
    wildcard_constraints:
        experiment=one_of(PLAN.trained_experiments),
    conda:
        "../envs/pmni.yaml"
    threads: threads_of("train")
    resources:
        gpu=gpus("train"),
        cpus_per_gpu=8,
        mem_mb=16000,
        runtime=240,
    params:
        version=STAGES["train"].version,
        settings=settings_of("train"),
        capture=subpath(input.capture, parent=True),
        ray_distances=subpath(input.ray_distances, parent=True),
        surface=lambda wildcards, input: option("--surface", input.surface),
        # A declared output would be deleted when a training stops: its state lies elsewhere.
        state=str(RESULTS.training_state("{experiment}", "{object}")),
        folder=subpath(output.history, parent=True),
    shell:
        "pmni train --capture {params.capture:q} --ray-distances {params.ray_distances:q}"
        " --poses {input.poses:q} {params.surface:q} --settings {params.settings:q}"
        " --state {params.state:q} --output {params.folder:q} > {log:q} 2>&1"
