"""bonsai from Python: ctypes over libbonsai, no dependencies.

    python3 bonsai.py MODEL.gguf "Once upon a time"

BONSAI_LIBRARY names the shared library; without it, the system's search path is used.
"""

import ctypes
import ctypes.util
import json
import os
import sys
from ctypes import POINTER, byref, c_char_p, c_float, c_int32, c_uint8, c_uint32, c_uint64, c_void_p

ABI_VERSION = 1
OK, BUFFER, END = 0, 36, 64
AUTO, CPU, GPU = 0, 1, 2


class ModelOptions(ctypes.Structure):
    _fields_ = [
        ("size", c_uint32),
        ("device", c_uint32),
        ("preload", c_uint32),
        ("reserved", c_uint32),
        ("progress", c_void_p),
        ("user", c_void_p),
    ]


class SamplingOptions(ctypes.Structure):
    _fields_ = [
        ("size", c_uint32),
        ("temperature", c_float),
        ("top_k", c_uint32),
        ("top_p", c_float),
        ("min_p", c_float),
        ("repeat_penalty", c_float),
        ("repeat_last_n", c_uint32),
        ("reserved", c_uint32),
        ("seed", c_uint64),
    ]


class BonsaiError(Exception):
    """A call that failed: `status` is one of BONSAI_ERROR_* of libbonsai.h."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def _load():
    path = os.environ.get("BONSAI_LIBRARY") or ctypes.util.find_library("bonsai")
    if not path:
        raise OSError("libbonsai is not installed: set BONSAI_LIBRARY to its path")
    lib = ctypes.CDLL(path)
    lib.bonsai_abi_version.restype = c_uint32
    if lib.bonsai_abi_version() != ABI_VERSION:
        raise OSError(f"{path} has ABI {lib.bonsai_abi_version()}, this file needs {ABI_VERSION}")
    signatures = {
        "bonsai_model_open": [c_char_p, c_uint64, c_void_p, POINTER(c_uint64)],
        "bonsai_model_open_bytes": [c_char_p, c_uint64, c_void_p, POINTER(c_uint64)],
        "bonsai_model_info": [c_uint64, c_void_p, c_uint64, POINTER(c_uint64)],
        "bonsai_model_encode": [c_uint64, c_char_p, c_uint64, c_uint32, c_void_p, c_uint64, POINTER(c_uint64)],
        "bonsai_model_decode": [c_uint64, POINTER(c_uint32), c_uint64, c_uint32, c_void_p, c_uint64, POINTER(c_uint64)],
        "bonsai_model_chat": [c_uint64, c_char_p, c_uint64, c_void_p, c_void_p, c_uint64, POINTER(c_uint64)],
        "bonsai_session_new": [c_uint64, c_void_p, POINTER(c_uint64)],
        "bonsai_sampling_options_init": [POINTER(SamplingOptions), c_uint32],
        "bonsai_session_set_sampling": [c_uint64, POINTER(SamplingOptions)],
        "bonsai_session_set_tokens": [c_uint64, POINTER(c_uint32), c_uint64, POINTER(c_uint64)],
        "bonsai_session_next": [c_uint64, POINTER(c_uint32)],
        "bonsai_session_logits": [c_uint64, c_void_p, c_uint64, POINTER(c_uint64)],
        "bonsai_session_save": [c_uint64, c_void_p, c_uint64, POINTER(c_uint64)],
        "bonsai_session_restore": [c_uint64, c_char_p, c_uint64],
        "bonsai_text_new": [c_uint64, POINTER(c_uint64)],
        "bonsai_text_push": [c_uint64, c_uint32, c_void_p, c_uint64, POINTER(c_uint64)],
        "bonsai_text_finish": [c_uint64, c_void_p, c_uint64, POINTER(c_uint64)],
    }
    for name, arguments in signatures.items():
        getattr(lib, name).argtypes, getattr(lib, name).restype = arguments, c_int32
    for name in ("bonsai_model_free", "bonsai_session_free", "bonsai_text_free"):
        getattr(lib, name).argtypes, getattr(lib, name).restype = [c_uint64], None
    lib.bonsai_last_error.restype = c_char_p
    return lib


_lib = _load()


def _check(status):
    if status != OK:
        raise BonsaiError(status, _lib.bonsai_last_error().decode())


def _fill(kind, call):
    """Calls `call(buffer, capacity, length)` with a buffer as large as it asks for; gives the array."""
    buffer, length = (kind * 256)(), c_uint64()
    status = call(buffer, len(buffer), byref(length))
    if status == BUFFER:
        buffer = (kind * length.value)()
        status = call(buffer, len(buffer), byref(length))
    _check(status)
    return buffer[: length.value]


def _text(call):
    return bytes(_fill(c_uint8, call)).decode()


def _handle(call):
    handle = c_uint64()
    _check(call(byref(handle)))
    return handle.value


class Model:
    """A model out of a GGUF file, on a device: AUTO, CPU or GPU."""

    def __init__(self, path, device=AUTO):
        name = os.fspath(path).encode()
        options = ModelOptions(size=ctypes.sizeof(ModelOptions), device=device)
        self.handle = _handle(lambda out: _lib.bonsai_model_open(name, len(name), byref(options), out))

    def __del__(self):
        _lib.bonsai_model_free(getattr(self, "handle", 0))

    def info(self):
        return json.loads(_text(lambda *out: _lib.bonsai_model_info(self.handle, *out)))

    def encode(self, text, specials=True):
        text = text.encode()
        return _fill(c_uint32, lambda *out: _lib.bonsai_model_encode(self.handle, text, len(text), specials, *out))

    def decode(self, ids, specials=False):
        array = (c_uint32 * len(ids))(*ids)
        return _text(lambda *out: _lib.bonsai_model_decode(self.handle, array, len(ids), specials, *out))

    def chat(self, messages):
        """The text of a conversation: a list of {"role": ..., "content": ...}."""
        text = json.dumps(messages).encode()
        return _text(lambda *out: _lib.bonsai_model_chat(self.handle, text, len(text), None, *out))

    def session(self, **sampling):
        return Session(self, **sampling)


class Session:
    """A conversation. Sampling: temperature, top_k, top_p, min_p, repeat_penalty, repeat_last_n, seed."""

    def __init__(self, model, **sampling):
        self.model = model
        self.handle = _handle(lambda out: _lib.bonsai_session_new(model.handle, None, out))
        options = SamplingOptions()
        _check(_lib.bonsai_sampling_options_init(byref(options), ctypes.sizeof(options)))
        for name, value in sampling.items():
            getattr(options, name)  # a misspelt name is an error
            setattr(options, name, value)
        _check(_lib.bonsai_session_set_sampling(self.handle, byref(options)))

    def __del__(self):
        _lib.bonsai_session_free(getattr(self, "handle", 0))

    def set_tokens(self, ids):
        """Makes these tokens the whole conversation; feeds only what is new, and gives the number of that."""
        fed = c_uint64()
        _check(_lib.bonsai_session_set_tokens(self.handle, (c_uint32 * len(ids))(*ids), len(ids), byref(fed)))
        return fed.value

    def logits(self):
        return _fill(c_float, lambda *out: _lib.bonsai_session_logits(self.handle, *out))

    def save(self):
        return bytes(_fill(c_uint8, lambda *out: _lib.bonsai_session_save(self.handle, *out)))

    def restore(self, saved):
        _check(_lib.bonsai_session_restore(self.handle, saved, len(saved)))

    def tokens(self, most):
        """Ids, until the model ends its answer or there are `most`."""
        for _ in range(most):
            id = c_uint32()
            status = _lib.bonsai_session_next(self.handle, byref(id))
            if status == END:
                return
            _check(status)
            yield id.value

    def generate(self, prompt, most=128):
        """Pieces of text, as they come."""
        self.set_tokens(self.model.encode(prompt))
        text = _handle(lambda out: _lib.bonsai_text_new(self.model.handle, out))
        try:
            for id in self.tokens(most):
                yield _text(lambda *out: _lib.bonsai_text_push(text, id, *out))
            yield _text(lambda *out: _lib.bonsai_text_finish(text, *out))
        finally:
            _lib.bonsai_text_free(text)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    for piece in Model(sys.argv[1]).session(temperature=0).generate(sys.argv[2]):
        print(piece, end="", flush=True)
    print()
