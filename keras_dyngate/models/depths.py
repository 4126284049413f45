"""A function for each depth of a net, from the one that takes the depth."""

import inspect
import re
from collections.abc import Callable
from typing import Concatenate, ParamSpec

import keras

P = ParamSpec("P")


def of_depth(
    build: Callable[Concatenate[int, P], keras.Model], depth: int
) -> Callable[P, keras.Model]:
    """The function `<name of build><depth>`, typed and documented like `build`.

    Args:
        build: Takes `depth` first, then what its nets have in common. Its docstring
            says "of the given depth" in the summary, has an entry `depth` among the
            arguments, and an example that calls the function of some depth.
        depth: Of the net.
    """

    def net(*args: P.args, **kwargs: P.kwargs) -> keras.Model:
        return build(depth, *args, **kwargs)

    name = f"{build.__name__}{depth}"
    net.__name__ = net.__qualname__ = name
    net.__module__ = build.__module__
    doc = (build.__doc__ or "").replace(" of the given depth", f"-{depth}", 1)
    doc = re.sub(r"^ +depth: .*\n(?: {12}.*\n)*", "", doc, flags=re.MULTILINE)
    net.__doc__ = re.sub(rf"\b{build.__name__}\d+\(", f"{name}(", doc)
    signature = inspect.signature(build)
    _, *others = signature.parameters.values()
    net.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
    return net
