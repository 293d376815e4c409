rule integrate:
    input:
        capture=CAPTURE.archive,
    output:
        ray_distances=INTEGRATION.ray_distances,
        preview=report(
            INTEGRATION.preview,
            caption="../report/integration.rst",
            category="Integrated normals",
            labels={"object": "{object}", "normals": "{normals}"},
        ),
        provenance=INTEGRATION.provenance,
    log:
        RESULTS.log("integrate", "{object}", "{normals}"),
    conda:
        "../envs/pmni.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        version=STAGES["integrate"].version,
        settings=CONFIG.integrate.model_dump_json(),
        capture=subpath(input.capture, parent=True),
        folder=subpath(output.ray_distances, parent=True),
    shell:
        "pmni integrate --capture {params.capture:q} --settings {params.settings:q}"
        " --threads {threads} --output {params.folder:q} > {log:q} 2>&1"
