#!/bin/bash
# Fetches what Debian 12 lacks into a folder: fetch.sh FOLDER
#
#   dx.jar, android.jar   from Debian 11, over apt with a state of its own
#   libLiteRt.so          from PyPI, for Android on arm64
#
# What is there already stays. DYNGATE_DEBIAN11 names a mirror that has Debian 11; by
# default it is the one that apt is set up with. Exit status 3 if a part cannot be had.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=$1
mkdir -p "$target"
cd "$target"

missing() { echo "fetch.sh: $1" >&2; exit 3; }

debian() {
  local tool
  for tool in apt-get dpkg; do command -v $tool > /dev/null || missing "$tool is missing"; done
  local codename mirror key=/usr/share/keyrings/debian-archive-keyring.gpg
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-none}")
  mirror=${DYNGATE_DEBIAN11:-$(apt-get indextargets --no-release-info \
      --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
      awk -v release="$codename" '$2 == release && $3 == "main" && !found++ { print $1 }')}
  [ -n "$mirror" ] || missing "DYNGATE_DEBIAN11 must name a mirror. apt is set up with none"
  mkdir -p apt/lists/partial apt/cache/archives/partial apt/root
  touch apt/status
  echo "deb $([ ! -f $key ] || echo "[signed-by=$key]") $mirror bullseye main" > apt/sources.list
  local own=(-o Dir::State="$PWD/apt" -o Dir::State::status="$PWD/apt/status"
             -o Dir::Cache="$PWD/apt/cache" -o Dir::Etc::sourcelist="$PWD/apt/sources.list"
             -o Dir::Etc::sourceparts=- -o Acquire::Languages=none -o APT::Sandbox::User=)
  (cd apt && apt-get "${own[@]}" update &&
      apt-get "${own[@]}" download dalvik-exchange libandroid-23-java) > apt/log 2>&1 ||
    missing "Debian 11's dalvik-exchange and libandroid-23-java cannot be had: $(tail -1 apt/log)"
  local package
  for package in apt/*.deb; do dpkg -x "$package" apt/root; done
  cp apt/root/usr/share/java/com.android.dx.jar dx.jar
  cp apt/root/usr/share/java/com.android.android-23.jar android.jar
  rm -rf apt
}

litert() {
  local python=${PYTHON:-python3}
  "$python" -m pip --version > /dev/null 2>&1 || missing "$python with pip is missing"
  mkdir -p wheel
  "$python" -m pip download -q --no-deps --only-binary=:all: --platform android_23_arm64_v8a \
      --require-hashes -r "$here/litert.txt" -d wheel > wheel/log 2>&1 ||
    missing "LiteRT for Android cannot be had: $(tail -1 wheel/log)"
  "$python" -m zipfile -e wheel/*.whl wheel
  mv wheel/litert_lm/liblitert-lm.so libLiteRt.so
  rm -rf wheel
}

[ -f dx.jar ] && [ -f android.jar ] || debian
[ -f libLiteRt.so ] || litert
