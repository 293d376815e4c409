rule integrate:
    input:
        capture="<results>/captures/{object}/{normals}/capture.npz",
    output:
        ray_distance="<results>/integration/{object}/{normals}/ray_distance.npz",
        preview=report(
            "<results>/integration/{object}/{normals}/preview.png",
            caption="../report/integration.rst",
            category="Integrated normals",
            labels={"object": "{object}", "normals": "{normals}"},
        ),
        provenance="<results>/integration/{object}/{normals}/provenance.json",
    log:
        "<results>/logs/integrate/{object}/{normals}.log",
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
        folder=subpath(output.ray_distance, parent=True),
    shell:
        "pmni integrate --capture {params.capture:q} --settings {params.settings:q}"
        " --threads {threads} --output {params.folder:q} > {log:q} 2>&1"
