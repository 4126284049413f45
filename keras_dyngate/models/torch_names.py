"""One spelling for what the authors of PyTorch's nets name in several ways."""

import re

_SPELLINGS = (
    (r"(linear|classifier|_fc)\.", "fc."),
    (r"(layer\d+\.\d+)\.shortcut\.", r"\1.downsample."),
    # torchvision's dense nets
    (r"features\.conv0\.", "conv1."),
    (r"features\.norm0\.", "bn1."),
    (
        r"features\.denseblock(\d+)\.denselayer(\d+)\.norm\.?(\d)\.",
        r"block\1_layer\2_bn\3.",
    ),
    (
        r"features\.denseblock(\d+)\.denselayer(\d+)\.conv\.?(\d)\.",
        r"block\1_layer\2_conv\3.",
    ),
    (r"features\.transition(\d+)\.norm\.", r"transition\1_bn."),
    (r"features\.transition(\d+)\.conv\.", r"transition\1_conv."),
    (r"features\.norm5\.", "final_bn."),
)


def our_name(name: str) -> str:
    """A name as `trunk_slots` spells it; one that is not known stays as it is."""
    for pattern, ours in _SPELLINGS:
        name, count = re.subn(f"^{pattern}", ours, name)
        if count:
            break
    return name
