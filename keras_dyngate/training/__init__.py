"""What a training of a dynamic net needs besides `fit`: gates apart, a teacher, a run."""

from keras_dyngate._public import offered

__getattr__ = offered(__name__)
