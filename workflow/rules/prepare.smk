rule prepare:
    input:
        dataset_of,
    output:
        capture="<results>/captures/{object}/{normals}/capture.npz",
        cameras="<results>/captures/{object}/{normals}/cameras.json",
        preview=report(
            "<results>/captures/{object}/{normals}/preview.png",
            caption="../report/capture.rst",
            category="Captures",
            labels={"object": "{object}", "normals": "{normals}"},
        ),
        provenance="<results>/captures/{object}/{normals}/provenance.json",
    log:
        "<results>/logs/prepare/{object}/{normals}.log",
    conda:
        "../envs/pmni.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        version=STAGES["prepare"].version,
        settings=CONFIG.prepare.model_dump_json(),
        layout=lambda wildcards: OBJECTS[wildcards.object].layout,
        path=lambda wildcards: OBJECTS[wildcards.object].path,
        folder=subpath(output.capture, parent=True),
    shell:
        "pmni prepare --name {wildcards.object:q} --layout {params.layout} --path {params.path:q}"
        " --normals {wildcards.normals:q} --settings {params.settings:q}"
        " --output {params.folder:q} > {log:q} 2>&1"
