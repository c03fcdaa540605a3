"""Write a .safetensors file with the names and shapes of a catalog UNet, and a hole instead of its weights: `header.py MODEL FILE`."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

from bare import build, read_config

_BYTES = 2  # per number in float16


def write_header(model: str, path: Path) -> None:
    """Write the file: a sparse file of the full size."""
    entries, position = {}, 0
    for name, tensor in build(read_config(model)).state_dict().items():
        end = position + _BYTES * tensor.numel()
        entries[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(file.tell() + position)


if __name__ == "__main__":
    write_header(sys.argv[1], Path(sys.argv[2]))
