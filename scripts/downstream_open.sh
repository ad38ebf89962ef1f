#!/usr/bin/env bash
# Does synthetic data help? The whole experiment on the open radiographs; run it again after any interruption and it goes on.
#   scripts/downstream_open.sh [open|shortcut|rare] [key.path=value ...]     (same values each time: they are part of the run)
# What is found goes to docs/results/<name>/ and docs/results.md; each classifier's predictions stay in build/downstream.
# SYNTHCXR_DATA names the folder with nih/ and hannover/; default ../shared/data/cxr-open beside the project.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:-open}
shift || true
data=${SYNTHCXR_DATA:-../shared/data/cxr-open}
case $name in
    open) plans=copy ;;
    shortcut) plans="copy cells" ;;
    rare) plans=rare ;;
    *) echo "error: $name must be open, shortcut or rare" >&2; exit 2 ;;
esac
# A classifier this small spends a fifth of its time on memory that glibc gives back and takes again each step.
export MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=67108864

for source in nih hannover; do
    [ -d build/data/$source ] || synthcxr prepare source=$source root="$data/$source" output=build/data/$source
done
for plan in $plans; do
    synthcxr synthesize configs/synthesize/downstream_$plan.yaml
done
synthcxr downstream configs/downstream/$name.yaml "$@"
python3 scripts/downstream_results.py "$name" build/downstream/$name-report
