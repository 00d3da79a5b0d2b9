"""One file a command: parses arguments, prints, nothing else. Start with `main.py`."""
