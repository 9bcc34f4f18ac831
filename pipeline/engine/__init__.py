"""Many images through a few workers: who does what (`schedule`), where (`actors`, the only importer of Ray), how far.

Only paths travel to the workers and only names of shards come back.
"""
