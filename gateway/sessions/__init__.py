"""Who is running: `identity.py` whose request this is, `caps.py` what a run may take, `loops.py` whether it turns in
circles. Pure; identity and loops are books. No prompt text is kept, only process-keyed digests.
"""
