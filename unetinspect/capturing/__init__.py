"""What a live pipeline computes while it samples: attention maps, features and skips, read, changed, saved and shown."""
