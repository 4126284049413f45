"""Dynamic neural networks in Keras 3 that really skip work on a device.

Public names resolve on first use (PEP 562), so that `keras_dyngate.runtime`, which a
device needs, imports neither Keras nor TensorFlow:

    import keras
    import keras_dyngate as kd

    model = kd.gated_resnet34(gates=kd.Gates(groups=4))

Importing this package, before Keras or after it, is enough for
`keras.models.load_model` to find its classes: no `custom_objects` are needed.
"""

from keras_dyngate._public import HOMES as _HOMES
from keras_dyngate._public import MODULES as _MODULES
from keras_dyngate._public import offered as _offered
from keras_dyngate._stand_ins import install as _install_stand_ins

__version__ = "0.1.0"

__all__ = sorted(_HOMES)

__getattr__ = _offered(__name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


# Whatever a file may name: the classes of these rooms, and one that is not public.
_SAVED = (
    "regularizers",
    "controllers",
    "layers",
    "losses",
    "metrics",
    "models",
    "taxonomy",
)
_install_stand_ins(
    {
        name: home
        for name, home in _HOMES.items()
        if home.split(".")[1] in _SAVED and name[0].isupper()
    }
    | {"ScoreCrossEntropy": "keras_dyngate.losses.one_vs_all_hinge"}
)
