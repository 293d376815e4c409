rule prepare:
    input:
        lambda wildcards: PLAN.dataset_files(wildcards.object),
    output:
        capture=CAPTURE.archive,
        cameras=CAPTURE.cameras,
        preview=report(
            CAPTURE.preview,
            caption="../report/capture.rst",
            category="Captures",
            labels={"object": "{object}", "normals": "{normals}"},
        ),
        provenance=CAPTURE.provenance,
    log:
        RESULTS.log("prepare", "{object}", "{normals}"),
    conda:
        "../envs/pmni.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        version=STAGES["prepare"].version,
        settings=CONFIG.prepare.model_dump_json(),
        layout=lambda wildcards: PLAN.objects[wildcards.object].layout,
        path=lambda wildcards, input: PLAN.object_folder(wildcards.object, input),
        folder=subpath(output.capture, parent=True),
    shell:
        "pmni prepare --name {wildcards.object:q} --layout {params.layout} --path {params.path:q}"
        " --normals {wildcards.normals:q} --settings {params.settings:q}"
        " --output {params.folder:q} > {log:q} 2>&1"
