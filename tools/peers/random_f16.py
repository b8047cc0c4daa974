#!/usr/bin/env python3
"""A GGUF file of f16 weights that are -0.02, 0 or +0.02 at random, in the shape of another file.

IQ2_BN of ik_llama.cpp has one scale a row, so it is made of a file like this and not of a model with scales for groups:

    pip install numpy gguf ik-llama-cpp-python
    random_f16.py tq2_0.gguf f16.gguf
    llama-quantize --pure f16.gguf iq2_bn.gguf IQ2_BN     # the one in ik_llama_cpp/bin; --pure: the head, too

Speed does not depend on the weights, so this is for `ik_speed.py` only.
"""
import argparse

import gguf
import numpy as np

CONTAINERS = ("general.architecture", "general.file_type")  # the writer's own


def copy_metadata(source, target):
    for field in source.fields.values():
        if field.name.startswith("GGUF.") or field.name in CONTAINERS:
            continue
        kind = field.types[0]
        if kind == gguf.GGUFValueType.ARRAY:
            target.add_array(field.name, field.contents())
        else:
            target.add_key_value(field.name, field.contents(), kind)


def add_tensors(source, target, seed):
    random = np.random.default_rng(seed)
    for tensor in source.tensors:
        shape = [int(size) for size in tensor.shape[::-1]]
        if len(shape) == 1:
            target.add_tensor(tensor.name, np.array(tensor.data, dtype=np.float32).reshape(shape))
        else:
            signs = random.integers(-1, 2, shape, dtype=np.int8)
            target.add_tensor(tensor.name, (signs * np.float16(0.02)).astype(np.float16))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a GGUF file whose types gguf-py knows (TQ2_0, for example)")
    parser.add_argument("target")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    source = gguf.GGUFReader(args.source)
    architecture = source.fields["general.architecture"].contents()
    target = gguf.GGUFWriter(args.target, architecture)
    copy_metadata(source, target)
    add_tensors(source, target, args.seed)
    target.write_header_to_file()
    target.write_kv_data_to_file()
    target.write_tensors_to_file()
    target.close()


if __name__ == "__main__":
    main()
