"""A `.tflite` file as data: read, inspected, linted. Neither Keras nor TensorFlow."""
