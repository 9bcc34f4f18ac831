"""Thresholds that are measured: how often a score is right, by what people accepted or a truth says.

`judged` says of each box of a run whether it is right; `proportion`, `thresholds` and `score_maps` are arithmetic on
scores and rights; `calibrate` puts them together for a run, and `outputs` and `plot` write what came out.
"""
