import keras_dyngate as kd


def test_time_left(capsys, monkeypatch):
    seconds = iter([0, 60, 100, 280])
    monkeypatch.setattr("time.perf_counter", lambda: next(seconds))
    line = kd.TimeLeft("exits")
    line.set_params({"epochs": 4})
    for epoch in (0, 1):
        line.on_epoch_begin(epoch)
        line.on_epoch_end(epoch, {"loss": 1.25, "gate_1_accuracy": 0.5})
    assert capsys.readouterr().out.splitlines() == [
        "exits, epoch 1 of 4: loss 1.250, gate_1 0.500; 60 s, 3.0 min left",
        "exits, epoch 2 of 4: loss 1.250, gate_1 0.500; 180 s, 4.0 min left",
    ]


def test_what_is_shown_and_of_how_many_epochs(capsys, monkeypatch):
    monkeypatch.setattr("time.perf_counter", lambda: 1.0)
    line = kd.TimeLeft("net", epochs=9, labelled=False)
    line.set_params({"epochs": 4})
    line.on_epoch_begin(3)
    logs = {
        "accuracy": 0.5,
        "gate_1_accuracy": 0.5,
        "val_accuracy": 0.25,
        "mean_macs": 12.34e6,
        "ms_per_image": 1.5,
        "sparsity_coefficient": 3.0,
        "note": "text",
    }
    line.on_epoch_end(3, logs)
    assert capsys.readouterr().out.strip() == (
        "net, epoch 4 of 9: accuracy 0.500, val_accuracy 0.250, mean 12.3 MMACs, "
        "1.50 ms an image here, masked; 0 s, 0.0 min left"
    )
