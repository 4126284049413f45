"""The one decorator for classes that Keras must find again in a saved file."""

import keras

serializable = keras.saving.register_keras_serializable(package="keras_dyngate")
