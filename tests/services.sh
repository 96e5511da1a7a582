#!/usr/bin/env bash
# Installs what tests use beyond Python, where that can be done: on Debian, as root. Does nothing if it is there.
set -euo pipefail
missing=()
command -v radosgw >/dev/null && command -v ceph-mon >/dev/null && command -v ceph-osd >/dev/null \
  && command -v ceph >/dev/null || missing+=(radosgw ceph-mon ceph-osd ceph-common)
command -v chromium >/dev/null || missing+=(chromium)
command -v kubectl >/dev/null || missing+=(kubernetes-client)
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  echo "services: installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "services: not here: ${missing[*]}; tests that need them will be skipped (on Debian, as root, this installs them)"
fi
