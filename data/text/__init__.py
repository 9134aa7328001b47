"""Text as token shards: preparing, reading, tokenizers."""
