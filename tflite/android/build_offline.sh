#!/bin/bash
# Builds the app without Gradle, an Android SDK or an NDK: build_offline.sh MODEL PICTURES OUT.apk
#
# MODEL is a .tflite file, PICTURES a folder of .jpg, .jpeg or .png files. Debian 12 has what is
# needed (README.md lists it) but for the parts that offline/fetch.sh gets into tflite/build/android.
# Exit status: 0, 1 for an error, 3 where a tool is missing.
set -euo pipefail
shopt -s nullglob nocaseglob
here=$(cd "$(dirname "$0")" && pwd)
app=$here/app/src/main
native=$here/../native
parts=$(cd "$here/.." && pwd)/build/android
work=$parts/work

fail() { echo "build_offline.sh: $2" >&2; exit "$1"; }

[ $# = 3 ] || fail 1 "usage: build_offline.sh MODEL PICTURES OUT.apk"
model=$(readlink -m "$1") out=$(readlink -m "$3")
pictures=("$2"/*.jpg "$2"/*.jpeg "$2"/*.png)
[ -f "$model" ] || fail 1 "MODEL must be a file. Received: $1"
[ ${#pictures[@]} -gt 0 ] || fail 1 "PICTURES must be a folder with some. Received: $2"
for tool in aapt apksigner clang dexdump java javac keytool ld.lld python3 readelf zipalign; do
  command -v "$tool" > /dev/null || fail 3 "$tool is missing"
done
jdk=$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")
[ -f "$jdk/include/jni.h" ] || fail 3 "jni.h is missing in $jdk"
"$here/offline/fetch.sh" "$parts"
rm -rf "$work"
mkdir -p "$work"/{stubs,classes,assets/pictures,apk/lib/arm64-v8a}

# Native code. Stand-ins for the system's libraries tell the linker who has what.
compile() {
  clang --target=aarch64-linux-android26 -std=c11 -O2 -fPIC -fvisibility=hidden -ffreestanding \
      -nostdlib -nostdlibinc -isystem "$here/offline/include" -isystem "$jdk/include" \
      -isystem "$jdk/include/linux" -I "$native" -Wall -Wextra -Wconversion -Werror \
      -shared -fuse-ld=lld -Wl,--no-undefined,-z,max-page-size=16384 "$@"
}
stand_in() {
  printf '__attribute__((visibility("default"))) void %s(void) {}\n' "${@:2}" > "$work/stubs/stub.c"
  compile -fno-builtin -w -Wl,-soname,"$1" -o "$work/stubs/$1" "$work/stubs/stub.c"
}
stand_in libdl.so dlopen dlsym dlerror
stand_in libc.so snprintf malloc calloc free memcpy memcmp memset strcmp strlen __stack_chk_fail
libraries=$work/apk/lib/arm64-v8a
compile -Wl,-soname,libdyngate_jni.so -o "$libraries/libdyngate_jni.so" \
    "$native/lrt.c" "$native/verify.c" "$native/lrt_jni.c" "$work/stubs/libdl.so" "$work/stubs/libc.so"
cp "$parts/libLiteRt.so" "$libraries"

# Bytecode.
find "$app/java" -name '*.java' > "$work/sources"
javac -nowarn -source 8 -target 8 -Xlint:-options -bootclasspath "$parts/android.jar" \
    -d "$work/classes" "@$work/sources"
java -cp "$parts/dx.jar" com.android.dx.command.Main --dex --min-sdk-version=26 \
    --output="$work/apk/classes.dex" "$work/classes" || fail 1 "dx refuses the bytecode"

# The package. The model must not be compressed: it is mapped into memory.
cp "$model" "$work/assets/model.tflite"
cp "${pictures[@]}" "$work/assets/pictures"
sed 's/<manifest /&package="org.kerasdyngate.app" /' "$app/AndroidManifest.xml" \
    > "$work/AndroidManifest.xml"
aapt package -f -M "$work/AndroidManifest.xml" -S "$app/res" -A "$work/assets" \
    -I "$parts/android.jar" -0 tflite -0 arsc --min-sdk-version 26 --target-sdk-version 34 \
    --version-code 1 --version-name 0.1.0 -F "$work/app.apk" > "$work/log"
(cd "$work/apk" && aapt add "$work/app.apk" classes.dex lib/arm64-v8a/*.so >> "$work/log")
zipalign -f -p 4 "$work/app.apk" "$work/aligned.apk"
[ -f "$parts/debug.keystore" ] ||
  keytool -genkeypair -keystore "$parts/debug.keystore" -storepass android -alias debug \
      -keyalg RSA -keysize 2048 -validity 10000 -dname CN=debug >> "$work/log" 2>&1
apksigner sign --ks "$parts/debug.keystore" --ks-pass pass:android --min-sdk-version 26 \
    --v4-signing-enabled false --out "$work/signed.apk" "$work/aligned.apk"
"$here/offline/check_apk.sh" "$work/signed.apk"
mv "$work/signed.apk" "$out"
