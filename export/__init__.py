"""From checkpoint to deployable, measured on the way."""
