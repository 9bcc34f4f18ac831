"""One run, one folder: Parquet shards that are complete or absent, and a manifest of what is done.

```
run/
  run.json          what makes the rows: models, classes, thresholds, versions; and where the images are
  shards/*.parquet  label rows (`pipeline.records.SCHEMA`), one file a batch
  timings/*.parquet seconds, host and worker of the same rows
  manifest.jsonl    one line a shard: its SHA-256, ids and counts; only shards named here are part of the run
  summary.json      counts, drops and failures; failed.csv lists the failed images, where there are any
  lock              host and process of the one writer
```
"""
