"""The test suite; `python -m tests` runs it once per backend."""
