"""Text as token shards: tokenizing documents, the format of the shards, and reading rows of them."""
