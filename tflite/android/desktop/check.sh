#!/bin/bash
# Checks the app's Java on a desktop JVM.
#
#   check.sh build                               the JNI library and all classes
#   check.sh golden [--dex APK] GOLDEN FOUND     runs the cases of a golden folder
#   check.sh model [--dex APK] GOLDEN_PARENT     checks on all golden folders in one
#   check.sh trials [--dex APK] MODEL PLAIN TRIALS TIMES
#                                                measures what trials cost, writes TIMES
#
# LITERT_LIBRARY names libLiteRt.so. With --dex the app's classes are those of an APK, its
# bytecode translated back. Exit status: 0, 1 for an error, 3 where a tool is missing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "$here/../.." && pwd)/build/java

fail() { echo "check.sh: $2" >&2; exit "$1"; }
need() {
  local tool
  for tool in "$@"; do
    command -v "$tool" > /dev/null || fail 3 "$tool is missing"
  done
}

build() {
  need cmake cc javac
  export JAVA_HOME=${JAVA_HOME:-$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")}
  rm -rf "$build"
  mkdir -p "$build/classes" "$build/checks"
  cmake -S "$here/../../native" -B "$build/native" -DSTRICT=ON -DJNI=ON > "$build/log"
  cmake --build "$build/native" --target dyngate_jni >> "$build/log"
  javac --release 8 -Xlint:all,-options -Werror -d "$build/classes" \
      "$here"/../app/src/main/java/org/kerasdyngate/*.java
  javac --release 8 -Xlint:all,-options -Werror -cp "$build/classes" -d "$build/checks" \
      "$here"/*.java
}

# The app's classes, as a class path: those of the build, or of an APK.
classes() {
  if [ -z "$apk" ]; then
    echo "$build/classes"
    return
  fi
  local jar
  jar=$build/$(sha256sum "$apk" | cut -c1-16).jar
  if [ ! -f "$jar" ]; then
    env -u PYTHON PATH="/usr/bin:$PATH" enjarify -o "$jar" "$apk" > "$build/enjarify.log" ||
      fail 1 "enjarify cannot translate $apk" # above: it needs Debian's own python3
  fi
  echo "$jar"
}

run() {
  need java
  [ -d "$build/checks" ] || fail 1 "nothing is built: run check.sh build"
  [ -f "${LITERT_LIBRARY:-}" ] ||
    fail 3 "LITERT_LIBRARY must name libLiteRt.so. Received: ${LITERT_LIBRARY:-nothing}"
  local path
  path=$(classes)
  java -Xcheck:jni -cp "$path:$build/checks" "$1" "$build/native/libdyngate_jni.so" \
      "$LITERT_LIBRARY" "${@:2}"
}

usage() { sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0" >&2; exit 1; }

[ $# -ge 1 ] || usage
command=$1 apk=
shift
if [ "${1:-}" = --dex ]; then
  [ -f "${2:-}" ] || fail 1 "--dex must be followed by an APK. Received: ${2:-nothing}"
  need enjarify
  apk=$2
  shift 2
fi
case "$command $#" in
  "build 0") build ;;
  "golden 2") run GoldenCheck "$@" ;;
  "model 1") run org.kerasdyngate.ModelCheck "$@" ;;
  "trials 4") run org.kerasdyngate.TrialsCheck "$@" ;;
  *) usage ;;
esac
