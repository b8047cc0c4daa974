"""Logits by way of ctypes against those of `bonsai logits`, to the bit; and the rest of bonsai.py once.

    BONSAI_LIBRARY=libbonsai.so python3 logits.py BONSAI MODEL.gguf
"""

import array
import json
import os
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "examples"))
import bonsai  # noqa: E402

IDS = [1, 72, 101, 108, 108, 111, 32, 200, 3, 99]


def run(program, *arguments):
    return subprocess.run([program, *arguments], check=True, capture_output=True).stdout.decode()


def rows_of_the_program(program, path):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "logits.safetensors")
        run(program, "logits", "-m", path, "--tokens", ",".join(map(str, IDS)), "-o", out, "--quiet")
        data = open(out, "rb").read()
    (size,) = struct.unpack("<Q", data[:8])
    entry = json.loads(data[8 : 8 + size])["logits"]
    begin, end = entry["data_offsets"]
    count, width = entry["shape"]
    values = data[8 + size + begin : 8 + size + end]
    return [values[4 * width * n : 4 * width * (n + 1)] for n in range(count)]


def bits(floats):
    return array.array("f", floats).tobytes()


def main(program, path):
    model = bonsai.Model(path, device=bonsai.CPU)
    assert model.info()["backend"].startswith("CPU, "), model.info()
    session = model.session(temperature=0)
    expected = rows_of_the_program(program, path)
    assert len(set(expected)) == len(IDS), "rows differ, or this shows nothing"
    for n, row in enumerate(expected, 1):
        assert session.set_tokens(IDS[:n]) == 1
        assert bits(session.logits()) == row, f"row {n}"

    copy = model.session()
    copy.restore(session.save())
    assert bits(copy.logits()) == expected[-1]
    try:
        copy.restore(b"nonsense")
    except bonsai.BonsaiError as error:
        assert error.status == 2 and "saved session" in str(error), error
    else:
        raise AssertionError("nonsense was restored")

    prompt = "he heard \u00e9 \U0001f333"
    assert model.decode(model.encode(prompt)) == prompt
    assert model.chat([{"role": "user", "content": prompt}]) == prompt  # this model's template
    assert model.info()["vocab"] == len(session.logits())
    text = "".join(model.session(seed=7).generate(prompt, 40))
    arguments = ["run", "-m", path, "-p", prompt, "-n", "40", "--seed", "7", "--quiet", "--json"]
    assert text == json.loads(run(program, *arguments))["text"]
    print("logits: ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
