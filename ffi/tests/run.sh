#!/usr/bin/env bash
# Programs in C, C++ and Python against libbonsai, installed in a scratch folder; `./test --only ffi` calls this.
# Needs gcc, g++, valgrind, pkg-config, cmake, python3 and nm, the program bonsai, and the model that
# the tests of bonsai-ffi write.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
model="$CARGO_TARGET_DIR/tmp/ffi/tiny.gguf" bonsai="$CARGO_TARGET_DIR/release/bonsai"
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
strict=(-Wall -Wextra -Werror -pedantic -g)
step() { printf -- '--- %s\n' "$*"; }

step install
ffi/install "$out/moved-later"
mv "$out/moved-later" "$out/prefix"
export PKG_CONFIG_PATH="$out/prefix/lib/pkgconfig" LD_LIBRARY_PATH="$out/prefix/lib"
read -ra shared <<<"$(pkg-config --cflags --libs libbonsai)"
read -ra native <<<"$(pkg-config --static --libs-only-l libbonsai)"
static=(-I"$out/prefix/include" "$out/prefix/lib/libbonsai.a" "${native[@]:1}") # the first one is -lbonsai

step "exported symbols are those of symbols.txt"
nm -D --defined-only "$out/prefix/lib/libbonsai.so" | awk '$2 != "A" { print $3 }' | sort | diff ffi/symbols.txt -

step "programs note the number of the ABI"
readelf -d "$out/prefix/lib/libbonsai.so" | grep -F 'soname: [libbonsai.so.1]'

step "chat.c as C and as C++, shared and static, against the program"
gcc -std=c11 "${strict[@]}" ffi/examples/chat.c "${shared[@]}" -o "$out/chat-c"
g++ -x c++ -std=c++17 "${strict[@]}" ffi/examples/chat.c -x none "${shared[@]}" -o "$out/chat-cpp"
gcc -std=c11 "${strict[@]}" ffi/examples/chat.c "${static[@]}" -o "$out/chat-static"
for prompt in "Hello" "he heard the hero: café"; do
    "$bonsai" run -m "$model" -p "$prompt" -n 60 --temp 0 --quiet >"$out/expected"
    [ "$(wc -c <"$out/expected")" -gt 40 ]
    for program in chat-c chat-cpp chat-static; do
        "$out/$program" "$model" "$prompt" 60 | cmp - "$out/expected"
    done
done
! "$out/chat-c" "$out/no-such-file" x 2>/dev/null

step "CMake"
mkdir "$out/app"
cat >"$out/app/CMakeLists.txt" <<EOF
cmake_minimum_required(VERSION 3.16)
project(app C)
find_package(bonsai 0.1 REQUIRED)
add_executable(with_shared $PWD/ffi/examples/chat.c)
target_link_libraries(with_shared PRIVATE bonsai::bonsai)
add_executable(with_static $PWD/ffi/examples/chat.c)
target_link_libraries(with_static PRIVATE bonsai::static)
EOF
cmake -S "$out/app" -B "$out/app/build" -DCMAKE_PREFIX_PATH="$out/prefix" >"$out/log" || { cat "$out/log"; exit 1; }
cmake --build "$out/app/build" >"$out/log" || { cat "$out/log"; exit 1; }
for program in with_shared with_static; do
    "$out/app/build/$program" "$model" "he heard the hero: café" 60 | cmp - "$out/expected"
done

step "the three lines of README.md"
sed -n '/^cargo build --release -p bonsai-ffi$/,/^\.\/chat /p' ffi/README.md | sed -e "s|\"\$PWD/target/release\"|$CARGO_TARGET_DIR/release|" \
    -e "s|-Ltarget/release|-L$CARGO_TARGET_DIR/release|" -e "s|-o chat|-o $out/chat|" -e "s|^\./chat model.gguf|$out/chat $model|" >"$out/readme.sh"
[ "$(wc -l <"$out/readme.sh")" = 3 ]
"$bonsai" run -m "$model" -p "Once upon a time" -n 128 --temp 0 --quiet >"$out/expected"
env -u LD_LIBRARY_PATH bash -e "$out/readme.sh" | cmp - "$out/expected"

step "hostile.c: plain, with the address sanitizer, and under valgrind"
gcc -std=c11 "${strict[@]}" -pthread ffi/tests/hostile.c "${shared[@]}" -o "$out/hostile"
timeout 60 "$out/hostile" "$model"
gcc -std=c11 "${strict[@]}" -pthread -fsanitize=address,undefined -fno-sanitize-recover ffi/tests/hostile.c "${static[@]}" -o "$out/hostile-asan"
ASAN_OPTIONS=detect_leaks=1 timeout 60 "$out/hostile-asan" "$model"
timeout 300 valgrind -q --error-exitcode=9 --fair-sched=yes --leak-check=full --errors-for-leak-kinds=definite \
    --show-leak-kinds=definite "$out/hostile" "$model"

step "100 times loaded and freed"
gcc -std=c11 "${strict[@]}" ffi/tests/reload.c "${shared[@]}" -o "$out/reload"
timeout 60 "$out/reload" "$model"

step Python
BONSAI_LIBRARY="$out/prefix/lib/libbonsai.so" PYTHONDONTWRITEBYTECODE=1 python3 ffi/tests/logits.py "$bonsai" "$model"
