"""Search how a net is to be gated, under a budget, with keras-tuner.

    hypermodel = kd.DynamicHyperModel(net, train, validation, "macs:0.6x")
    front = kd.search_gates(hypermodel, max_trials=20, directory="searches")
    print(front)

Needs keras-tuner: `pip install "keras_dyngate[tuning]"`.
"""

from keras_dyngate._public import offered

__getattr__ = offered(__name__)
