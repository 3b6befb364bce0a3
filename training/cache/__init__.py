"""Clips and captions as a model takes them: encoded once, in shards that are read one clip at a time."""
