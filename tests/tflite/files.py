"""Files as tests want them."""

import json

from keras_dyngate.flatfile import flatbuffer
from keras_dyngate.runtime.litert_model import METADATA_NAME


def note_exits(path, target, after):
    """A copy of a file whose metadata names its exits' places.

    Args:
        path: A file with early exits.
        target: Where to write the copy.
        after: Layer before each exit, the head's None last.
    """
    model = flatbuffer.read(path.read_bytes())
    found = json.loads(flatbuffer.get_metadata(model, METADATA_NAME))
    macs = found["macs_per_exit"]
    found["exits"] = [
        {
            "name": "head" if layer is None else f"gate_{index + 1}",
            "after": layer,
            "macs": int(count),
            "macs_share": count / macs[-1],
        }
        for index, (layer, count) in enumerate(zip(after, macs, strict=True))
    ]
    flatbuffer.set_metadata(model, METADATA_NAME, json.dumps(found).encode())
    target.write_bytes(flatbuffer.write(model))
