"""Submissions -> ranked tables -> a static site that needs no server and no other host."""
