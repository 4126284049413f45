"""The command line: `python -m keras_dyngate`, or `keras-dyngate` where installed."""

from keras_dyngate.command_line import main

if __name__ == "__main__":
    raise SystemExit(main())
