"""Measurements that need torch: what `groundlabel bench` prints."""
