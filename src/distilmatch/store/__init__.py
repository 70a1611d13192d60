"""The representation folder: arrays in memory-mapped safetensors shards, ids in Parquet, a manifest written last."""
