rule train:
    input:
        capture=capture_of,
        ray_distances=ray_distances_of,
        poses=poses_for_training,
        refined=refined,
    output:
        checkpoints=directory("<results>/{experiment}/{object}/train/checkpoints"),
        poses=directory("<results>/{experiment}/{object}/train/poses"),
        tensorboard=directory("<results>/{experiment}/{object}/train/tensorboard"),
        history="<results>/{experiment}/{object}/train/history.csv",
        selection="<results>/{experiment}/{object}/train/selection.json",
        provenance="<results>/{experiment}/{object}/train/provenance.json",
    log:
        "<results>/logs/train/{experiment}/{object}.log",
    wildcard_constraints:
        experiment=one_of(TRAINED),
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
        settings=lambda wildcards: experiment_of(wildcards).train.model_dump_json(),
        capture=subpath(input.capture, parent=True),
        ray_distances=subpath(input.ray_distances, parent=True),
        surface=lambda wildcards, input: ["--surface", input.refined[1]] if input.refined else [],
        # A declared output would be deleted when a training stops: its state lies elsewhere.
        state=f"{CONFIG.results}/state/{{experiment}}/{{object}}",
        folder=subpath(output.history, parent=True),
    shell:
        "pmni train --capture {params.capture:q} --ray-distances {params.ray_distances:q}"
        " --poses {input.poses:q} {params.surface:q} --settings {params.settings:q}"
        " --state {params.state:q} --output {params.folder:q} > {log:q} 2>&1"
