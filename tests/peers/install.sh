#!/usr/bin/env bash
# Unpacks the Debian packages of the peers into build/peers, without root: what the packages need and the
# machine has not comes along, and is found through LD_LIBRARY_PATH. Elsewhere than on Debian it does nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
packages=(orthanc orthanc-dicomweb)
peers=build/peers
if [ -e "$peers/.done" ]; then exit 0; fi
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    echo "no Debian packages here: tests with Orthanc will skip" >&2
    exit 0
fi
mkdir -p "$peers/debs"
needed() {
    apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances "${packages[@]}" | grep '^[a-z0-9]' | sort -u
}
wanted=("${packages[@]}")
for package in $(needed); do
    # Programs that only configure a system are of no use in a folder.
    case $package in cdebconf | debconf* | usrmerge | install-info | lsb-base | perl* | lib*-perl) continue ;; esac
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || wanted+=("$package")
done
if ! (cd "$peers/debs" && apt-get download "${wanted[@]}" >../download.log 2>&1); then
    # Package lists may be old or absent; only root may fetch them.
    apt-get update >>"$peers/download.log" 2>&1 || true
    if ! (cd "$peers/debs" && apt-get download "${wanted[@]}" >>../download.log 2>&1); then
        echo "the Debian packages of Orthanc cannot be had (build/peers/download.log): its tests will skip" >&2
        exit 0
    fi
fi
for deb in "$peers"/debs/*.deb; do dpkg -x "$deb" "$peers/root"; done
touch "$peers/.done"
