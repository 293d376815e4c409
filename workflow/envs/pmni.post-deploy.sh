#!/usr/bin/env bash
# Installs pmni from the folder of the Snakefile, in which or from whose link Snakemake runs.
set -euo pipefail
folder=$(python -c 'import os; print(os.path.dirname(os.path.realpath("Snakefile")))')
python -m pip install --no-deps --editable "$folder"
