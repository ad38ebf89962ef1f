#!/usr/bin/env bash
# Everything from the open radiographs to the embedded weights; run it again after any interruption and it goes on.
#   scripts/train_embedded.sh [key.path=value ...]        (same values each time: they are part of the run)
# SYNTHCXR_DATA names the folder with nih/ and hannover/; default ../shared/data/cxr-open beside the project.
# On one GPU or many: LAUNCH="accelerate launch -m synthcxr.cli" scripts/train_embedded.sh
set -euo pipefail
cd "$(dirname "$0")/.."
data=${SYNTHCXR_DATA:-../shared/data/cxr-open}
launch=${LAUNCH:-synthcxr}

for source in nih hannover; do
    synthcxr prepare source=$source root="$data/$source" output=build/data/$source
done
$launch train configs/train/embedded.yaml "$@"
if [ -d build/embedded/model/classifier ]; then
    synthcxr calibrate model=build/embedded/model data='[build/data/nih, build/data/hannover]' cache=build/embedded/cache
fi
echo "the model is in build/embedded/model; to ship it, copy that folder to synthcxr/weights and run scripts/contact_sheet.py"
