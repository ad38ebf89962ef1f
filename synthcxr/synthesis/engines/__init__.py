"""Engines: who draws the shards that are asked for. An engine takes jobs as it can do them, and yields what is done."""
