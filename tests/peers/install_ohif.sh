#!/usr/bin/env bash
# Unpacks the released OHIF from its npm package (50 MB) into build/peers/ohif. Where that cannot be had, its
# tests skip.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
version=3.13.2
digest=5997719a9986eeba85816f5924b71b82bdd70ad2e2d4a0cd3e831a798e4f3dee
digest+=a3e06e1f8c48e393271933a0ba664d85f3b04ac457e9abe8dde715d907d13c10
ohif=build/peers/ohif
if [ -e "$ohif/.done" ]; then exit 0; fi
if ! command -v npm >/dev/null; then
    echo "there is no npm: tests with OHIF will skip" >&2
    exit 0
fi
rm -rf "$ohif"
mkdir -p "$ohif"
if ! (cd "$ohif" && timeout 120 npm pack --silent "@ohif/app@$version" >../ohif.log 2>&1); then
    echo "OHIF cannot be had (build/peers/ohif.log): its tests will skip" >&2
    exit 0
fi
echo "$digest  $ohif/ohif-app-$version.tgz" | sha512sum --check --quiet
tar -xzf "$ohif/ohif-app-$version.tgz" -C "$ohif" --exclude='*.map'
rm "$ohif/ohif-app-$version.tgz"
touch "$ohif/.done"
