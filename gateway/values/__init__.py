"""What flows through the house: frozen values that check themselves once, at birth.

Pure; imports nothing but the standard library and msgspec. Start with `request.py`, then `plan.py` and `entry.py`.
"""
