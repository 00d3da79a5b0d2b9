"""The callers' dialects: bytes to values and back, incrementally. Pure.

`chat.py` reads a chat-completions body without ever re-serialising it; `chat_stream.py` meters a stream as it passes.
"""
