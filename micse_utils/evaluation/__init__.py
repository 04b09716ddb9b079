"""Score embeddings on STS, transfer tasks and section triplets; metrics and published scores."""
