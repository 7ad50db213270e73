#!/usr/bin/env bash
# Unpacks the Debian packages of the peers into build/peers, without root: what the packages need and the
# machine has not comes along, and is found through LD_LIBRARY_PATH. Elsewhere than on Debian it does nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
peers=build/peers
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    echo "no Debian packages here: tests with peers that are not installed will skip" >&2
    exit 0
fi
mkdir -p "$peers"

needed() {
    apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances "$@" | grep '^[a-z0-9]' | sort -u
}

# unpack NAME PACKAGE...
unpack() {
    local name=$1 package wanted
    shift
    if [ -e "$peers/.$name" ]; then return; fi
    wanted=("$@")
    for package in $(needed "$@"); do
        # Programs that only configure a system are of no use in a folder.
        case $package in cdebconf | debconf* | usrmerge | install-info | lsb-base | perl* | lib*-perl) continue ;; esac
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || wanted+=("$package")
    done
    mkdir -p "$peers/$name"
    if ! (cd "$peers/$name" && apt-get download "${wanted[@]}" >../download.log 2>&1); then
        # Package lists may be old or absent; only root may fetch them.
        apt-get update >>"$peers/download.log" 2>&1 || true
        if ! (cd "$peers/$name" && apt-get download "${wanted[@]}" >>../download.log 2>&1); then
            echo "the Debian packages of $name cannot be had (build/peers/download.log): its tests will skip" >&2
            return
        fi
    fi
    for package in "$peers/$name"/*.deb; do dpkg -x "$package" "$peers/root"; done
    rm -rf "${peers:?}/$name"
    touch "$peers/.$name"
}

unpack Orthanc orthanc orthanc-dicomweb
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
    unpack Chromium chromium
fi
