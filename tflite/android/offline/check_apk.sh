#!/bin/bash
# Checks an APK that build_offline.sh made, as far as that is possible without a device.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
apk=$1
java=$here/../app/src/main/java
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# ok WHAT COMMAND...: the command's standard output goes nowhere.
ok() {
  if "${@:2}" > /dev/null; then
    echo "ok: $1"
  else
    echo "check_apk.sh: failed: $1" >&2
    exit 1
  fi
}
each_in() { # each_in FILE: every line of standard input is a line of FILE, and there are some
  local line count=0
  while read -r line; do
    grep -qxF -- "$line" "$1" || { echo "missing: $line" >&2; return 1; }
    count=$((count + 1))
  done
  [ $count -gt 0 ]
}
wide_pages() { # wide_pages LIBRARY: all segments are aligned to 16 KB or more
  local alignment
  for alignment in $(readelf -lW "$1" | awk '$1 == "LOAD" { print $NF }'); do
    [ $((alignment)) -ge 16384 ] || return 1
  done
}

ok "aligned" zipalign -c -p 4 "$apk"
apksigner verify --verbose --min-sdk-version 26 "$apk" > "$work/signed"
for scheme in v2 v3; do
  ok "signed, $scheme" grep -q "^Verified using $scheme scheme.*: true" "$work/signed"
done

aapt dump badging "$apk" > "$work/badging"
for line in "package: name='org.kerasdyngate.app'" "sdkVersion:'26'" "native-code: 'arm64-v8a'" \
    "launchable-activity: name='org.kerasdyngate.app.MainActivity'"; do
  ok "$line" grep -q "^$line" "$work/badging"
done

aapt list -v "$apk" > "$work/files"
for file in assets/model.tflite resources.arsc; do
  ok "$file is not compressed" grep -q " Stored .* $file\$" "$work/files"
done

python3 -m zipfile -e "$apk" "$work/apk"
dexdump "$work/apk/classes.dex" |
    sed -n "s/^ *Class descriptor *: 'L\(.*\);'/\1/p" > "$work/classes"
ok "all classes" each_in "$work/classes" \
    < <(cd "$java" && find . -name '*.java' | sed 's/^..//; s/.java$//')

libraries=$work/apk/lib/arm64-v8a
for library in libdyngate_jni.so libLiteRt.so; do
  file=$libraries/$library
  ok "$library is for AArch64" grep -q 'Machine: *AArch64' <(readelf -h "$file")
  ok "$library suits pages of 16 KB" wide_pages "$file"
  readelf -dW "$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' > "$work/$library.needed"
  readelf --dyn-syms -W "$file" | awk '$7 != "UND" { sub(/@.*/, "", $8); print $8 }' \
      > "$work/$library.exports"
done
printf '%s\n' libc.so libdl.so > "$work/ours"
printf '%s\n' libc.so libdl.so libm.so liblog.so libz.so libandroid.so libEGL.so libGLESv2.so \
    libGLESv3.so > "$work/system"
ok "libdyngate_jni.so needs libc and libdl alone" each_in "$work/ours" \
    < "$work/libdyngate_jni.so.needed"
ok "libLiteRt.so needs the system's libraries alone" each_in "$work/system" \
    < "$work/libLiteRt.so.needed"
ok "libLiteRt.so has all functions" each_in "$work/libLiteRt.so.exports" \
    < <(sed -n 's/^  F(\([A-Za-z]*\), .*/LiteRt\1/p' "$here/../../native/lrt.c")
ok "libdyngate_jni.so has all functions" each_in "$work/libdyngate_jni.so.exports" \
    < <(tr '\n' ' ' < "$java/org/kerasdyngate/SignatureModel.java" |
        grep -o 'static native [^(]*' | sed 's/.* /Java_org_kerasdyngate_SignatureModel_/')

bytes=$(stat -c %s "$apk")
assets=$(awk '$NF ~ /^assets\// { sum += $1 } END { print sum }' "$work/files")
ok "without model and pictures it has at most 19 MB" test $((bytes - assets)) -le 19000000
echo "size: $bytes bytes, of which assets $assets"
