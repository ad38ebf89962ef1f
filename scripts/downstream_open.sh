#!/usr/bin/env bash
# Does synthetic data help? The whole experiment on the open radiographs; run it again after any interruption and it goes on.
#   scripts/downstream_open.sh [open|shortcut|rare] [key.path=value ...]     (same values each time: they are part of the run)
# The report goes to docs/results/<name>/ with result.json; predictions stay in build/downstream.
# SYNTHCXR_DATA names the folder with nih/ and hannover/; default ../shared/data/cxr-open beside the project.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:-open}
shift || true
data=${SYNTHCXR_DATA:-../shared/data/cxr-open}
case $name in
    open) plan=copy ;;
    shortcut) plan=cells ;;
    rare) plan=rare ;;
    *) echo "error: $name must be open, shortcut or rare" >&2; exit 2 ;;
esac

for source in nih hannover; do
    [ -d build/data/$source ] || synthcxr prepare source=$source root="$data/$source" output=build/data/$source
done
synthcxr synthesize configs/synthesize/downstream_$plan.yaml
output=build/downstream/$name-report
synthcxr downstream configs/downstream/$name.yaml "$@"
mkdir -p "docs/results/$name"
cp "$output/report.html" "$output/result.json" "docs/results/$name/"
echo "docs/results/$name/report.html"
