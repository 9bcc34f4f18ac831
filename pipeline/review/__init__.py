"""A run seen in FiftyOne: our own MongoDB, the ingest of a run's shards, and the App.

The only package that imports fiftyone, and only inside functions: importing it is cheap.
"""
