"""Data sets as published, read into prepared Arrow tables that are verified against the frozen manifests."""
