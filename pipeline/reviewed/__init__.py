"""The reviewed layer of a run: what people changed, in Parquet beside the shards, readable without any database.

`reviewed/` in a run's folder holds files of changes (`changes`, `table`). Replaying them (`layer`) gives the reviewed
state of each image that a person touched; `labels` puts it over the run's own rows, for exports.
"""
