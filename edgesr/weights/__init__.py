"""The shipped models: deployables, checkpoints, and index.json with the facts of each."""
