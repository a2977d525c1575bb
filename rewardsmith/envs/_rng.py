"""The state of a NumPy generator as six integers, so that it fits in an array and in any file."""

import numpy as np

WORDS = 6
_LOW = (1 << 64) - 1


def pack(generator: np.random.Generator) -> np.ndarray:
    """State of a PCG64 generator as (6,) uint64: state and increment (two words each), the spare half."""
    stored = generator.bit_generator.state
    state, increment = stored["state"]["state"], stored["state"]["inc"]
    words = [state >> 64, state & _LOW, increment >> 64, increment & _LOW]
    return np.array([*words, stored["has_uint32"], stored["uinteger"]], np.uint64)


def unpack(words: np.ndarray, generator: np.random.Generator) -> None:
    """Put the state that `pack` read back into a PCG64 generator."""
    state_high, state_low, inc_high, inc_low, has_uint32, uinteger = (int(word) for word in words)
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": state_high << 64 | state_low, "inc": inc_high << 64 | inc_low},
        "has_uint32": has_uint32,
        "uinteger": uinteger,
    }
